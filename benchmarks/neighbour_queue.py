"""What a neighbour queue of 65,536 keys of 256 dimensions costs, against a step of tuning without one (queue_size=0).

Two whole steps differ by chance by more than that, so the bar is on what the neighbour queue itself does in a step (two
searches and one writing), as a fraction of the step without; the whole steps are there to show that nothing is omitted.
Default recipe, but views as long as the clip, so that every step does the same work. Hidden size of the base preset, 3
layers: with all 12 the fraction would be smaller still.

python benchmarks/neighbour_queue.py
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from compare import Row, interleaved, parse, report
from torch.nn import functional as F
from training_steps import describe, make_clips, make_model, training_step

from uamix_hf import UaMixForContrastiveTuning

LAYERS, CLIPS, SECONDS = 3, 8, 10


def own_work(model: UaMixForContrastiveTuning, clips: int) -> Callable[[], None]:
    """What a step does with the neighbour queue: look the two views up, store one."""
    queue, topk = model.neighbour_queue, model.config.topk
    target_a, target_b = F.normalize(torch.randn(2, clips, queue.keys.shape[1]), dim=-1)
    ids = torch.arange(clips)

    def work() -> None:
        queue.lookup(target_a, ids, topk)
        queue.lookup(target_b, ids, topk)
        queue.enqueue(target_a, ids)

    return work


def share_row(case: str, ours: Sequence[float], peer: Sequence[float], bar: float | None = None) -> Row:
    """How long we take in times of the peer, round by round."""
    shares = [own / theirs for own, theirs in zip(ours, peer, strict=True)]
    words = [f"{1000 * statistics.median(side):,.4g} ms" for side in (ours, peer)]
    return Row(case, *words, statistics.median(shares), min(shares), max(shares), bar, at_least=False)


def main() -> None:
    args = parse()
    with_set = make_model(args.small, LAYERS, min_crop=1)
    without = make_model(args.small, LAYERS, min_crop=1, queue_size=0)
    batch = make_clips(CLIPS, SECONDS)
    seconds = interleaved(
        {
            "with": partial(training_step(with_set, lambda batch: with_set(**batch).loss), batch),
            "without": partial(training_step(without, lambda batch: without(**batch).loss), batch),
            "alone": own_work(with_set, CLIPS),
        },
        args.repeats,
    )
    places, width = with_set.neighbour_queue.keys.shape
    case = f"neighbour queue of {places:,} x {width}, {describe(with_set, CLIPS, SECONDS)}"
    rows = [
        share_row(f"fraction of a step, {case}", seconds["alone"], seconds["without"], 0.02),
        share_row(f"whole step, {case}", seconds["with"], seconds["without"]),
    ]
    report("neighbour_queue", "the same step without neighbour queue", rows, args)


if __name__ == "__main__":
    main()
