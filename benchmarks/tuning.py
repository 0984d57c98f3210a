"""A step of tuning against the plain uaMix step of plain_step.py: forward, backward, AdamW, target.

With our default recipe, for clips of 10, 5 and 1 s: views as long as their crop and one pass over all; half of the
tokens dropped, as for an hour of audio or more, or none, as for less. And with identical settings: nothing dropped, the
same views, partners, cuts and padding; there the losses must be the same. The plain step is given its views ready-made,
while ours makes them within the time that is taken; and since it pads them to 1024 frames, its work is the same for any
clip: it is timed with clips of 10 s. The crops of the rounds are spread evenly over those that training draws from, so
that their median is that of training. Hidden size of the base preset with 2 layers, the heads whole. Training gives the
neighbour queue no more places than there are clips: here those of an hour of clips of 1 s, and 65,536 for more than
that; the plain step has the fewer.

python benchmarks/tuning.py
"""

from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from compare import Row, interleaved, parse, ratio_row, report
from plain_step import PlainStep
from training_steps import describe, given_views, loss_of_given, make_clips, make_model, plain_copy, training_step

from uamix_hf import UaMixForContrastiveTuning
from uamix_hf.training import augmentations as views

LAYERS, CLIPS = 2, 6
LITTLE_QUEUE = 3600
BARS = {10: 1.5, 5: 3.0, 1: 10.0}  # seconds of a clip: times faster than the plain step


def with_even_crops(step: Callable[[dict], float], model: UaMixForContrastiveTuning, rounds: int) -> Callable:
    """The step with the longest crop in its first call, which is not timed, and then with those of even quantiles."""
    draws = iter([1.0, *((number + 0.5) / rounds for number in range(rounds))])

    def evenly(batch: dict[str, torch.Tensor]) -> float:
        least = model.config.min_crop
        with mock.patch.object(views, "draw_crop", lambda config: least + (1 - least) * next(draws)):
            return step(batch)

    return evenly


def loss_row(model: UaMixForContrastiveTuning, plain: PlainStep, given: dict[str, torch.Tensor]) -> Row:
    """By how much the losses of the same views differ; both neighbour queues take the views in."""
    losses = []
    for loss in (partial(loss_of_given, model), plain):
        torch.manual_seed(0)  # which of the nearest neighbours is chosen
        with torch.no_grad():
            losses.append(loss(**given).item())
    ours, peer = losses
    difference = abs(ours - peer)
    case = f"identical settings, difference of the losses, {describe(model, CLIPS, 10)}"
    return Row(case, f"{ours:.7g}", f"{peer:.7g}", difference, difference, difference, 1e-5, at_least=False)


def main() -> None:
    args = parse()
    same = make_model(args.small, LAYERS, token_drop=0.0, queue_size=LITTLE_QUEUE)
    plain = plain_copy(same)
    given = given_views(same, CLIPS, 10)
    rows = [loss_row(same, plain, given)]

    halved = make_model(args.small, LAYERS, token_drop=0.5)
    recipes = {
        "default recipe for an hour of audio": (halved, training_step(halved, lambda batch: halved(**batch).loss)),
        "default recipe for less audio": (same, training_step(same, lambda batch: same(**batch).loss)),
    }
    sides = {"plain": partial(training_step(plain, plain), **given)}
    sides["identical settings, 10 s"] = partial(training_step(same, partial(loss_of_given, same)), **given)
    bars = {"identical settings, 10 s": (10, 1.0)}
    for recipe, (model, step) in recipes.items():
        for length, bar in BARS.items():
            ours = with_even_crops(step, model, args.repeats)
            sides[f"{recipe}, {length} s"] = partial(ours, make_clips(CLIPS, length))
            bars[f"{recipe}, {length} s"] = (length, bar)
    seconds = interleaved(sides, args.repeats)
    for name, (length, bar) in bars.items():
        pair = {"ours": seconds[name], "plain": seconds["plain"]}
        case = f"{name.rpartition(',')[0]}, {describe(same, CLIPS, length)}"
        rows.append(ratio_row(case, pair, CLIPS, "clips", bar))
    report("tuning", "plain uaMix step: three passes padded to 1024 frames", rows, args)


if __name__ == "__main__":
    main()
