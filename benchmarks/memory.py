"""Peak memory per clip of a step of tuning at our default recipe against the plain uaMix step of plain_step.py.

What is counted: by how much the resident memory of a process at its highest (`ru_maxrss`) exceeds what it held when the
step began, over the number of clips: activations, gradients and whatever comes and goes. What is not: code, weights,
the state of AdamW, the neighbour queue and the batch, which are there before. Every measurement has a process of its
own, whose first step, on two clips of a fraction of a second, has set all that up; and memory that is freed goes back
at once, so that the peak is what is alive. Our views are as long as the clip, the longest that cropping can leave,
since the step that needs most decides. The plain step is given its views ready-made, padded to 1024 frames, whatever
the clip. Clips of 10 s, hidden size of the base preset with 2 layers, the heads whole. At most 3 rounds: it hardly
varies.

python benchmarks/memory.py
"""

import statistics

import torch
from compare import Row, parse, report
from peak_memory import MOST_ROUNDS, added_peak, in_own_process
from training_steps import describe, given_views, make_clips, make_model, plain_copy, training_step

LAYERS, CLIPS, SECONDS = 2, 8, 10
SIDES = ("ours", "plain")


def step_memory(side: str, small: bool, threads: int) -> int:
    """Bytes that one step adds."""
    torch.set_num_threads(threads)
    model = make_model(small, LAYERS, min_crop=1)
    if side == "ours":
        first, batch = make_clips(2, 1), make_clips(CLIPS, SECONDS)
        step = training_step(model, lambda **batch: model(**batch).loss)
    else:
        plain, batch = plain_copy(model), given_views(model, CLIPS, SECONDS)
        del model
        first = {"partner": torch.tensor([1, 0]), "sample_id": batch["sample_id"][:2]}
        first |= {name: batch[name][:2, :96] for name in ("view_a", "view_b", "kept")}
        step = training_step(plain, plain)
    step(**first)
    return added_peak(lambda: step(**batch))


def main() -> None:
    args = parse()
    rounds = min(args.repeats, MOST_ROUNDS)
    measured = [
        [in_own_process(step_memory, side, args.small, args.threads) / CLIPS for side in SIDES] for _ in range(rounds)
    ]
    ours, peer = zip(*measured, strict=True)
    shares = [own / theirs for own, theirs in zip(ours, peer, strict=True)]
    words = [f"{statistics.median(side) / 2**20:,.4g} MiB/clip" for side in (ours, peer)]
    case = describe(make_model(args.small, LAYERS), CLIPS, SECONDS)
    row = Row(case, *words, statistics.median(shares), min(shares), max(shares), 0.6, at_least=False)
    report("memory", "plain uaMix step: three passes padded to 1024 frames", [row], args)


if __name__ == "__main__":
    main()
