"""What a run may choose, against itself in plain float32: bfloat16 autocast, and torch.compile.

The encoder's forward pass without gradient, and a step of tuning at our default recipe with views as long as the clip;
heads and loss stay in float32 under autocast. Hidden size of the base preset with 2 layers, clips of 10 s. Compiling
happens in the rounds that are not timed.

python benchmarks/modes.py
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from compare import Row, interleaved, parse, ratio_row, report
from training_steps import describe, make_clips, make_encoder, make_model, training_step

LAYERS, CLIPS, SECONDS = 2, 6, 10
COMPILING_ROUNDS = 3  # parts are compiled anew when gradients or autocast change around them
MODES = ("float32", "bfloat16 autocast", "compiled", "compiled, bfloat16 autocast")


def sides(small: bool, mode: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A forward pass and a step of tuning in one of MODES, of a model of their own."""
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=mode.endswith("autocast"))
    model = make_model(small, LAYERS, min_crop=1)
    encoder, tuned = make_encoder(small, LAYERS).eval(), model
    if mode.startswith("compiled"):
        # What a small run shows is that both can be traced: generating code takes a minute.
        compiled = partial(torch.compile, backend="eager" if small else "inductor")
        encoder, tuned = compiled(encoder), compiled(tuned)
    batch = make_clips(CLIPS, SECONDS)

    def encode() -> None:
        with torch.no_grad(), autocast():
            encoder(batch["input_values"])

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with autocast():
            return tuned(**batch).loss

    return encode, partial(training_step(model, loss), batch)


def rows(what: str, seconds: Sequence[Sequence[float]], shape: str) -> list[Row]:
    """How much faster each mode is than float32, round by round."""
    plain, *others = zip(MODES, seconds, strict=True)
    return [ratio_row(f"{mode}: {what}, {shape}", dict([(mode, own), plain]), CLIPS, "clips") for mode, own in others]


def main() -> None:
    args = parse()
    pairs = [sides(args.small, mode) for mode in MODES]
    works = {str((mode, kind)): pair[kind] for mode, pair in zip(MODES, pairs, strict=True) for kind in (0, 1)}
    taken = interleaved(works, args.repeats, COMPILING_ROUNDS)
    shape = describe(make_model(args.small, LAYERS), CLIPS, SECONDS)
    found = []
    for kind, what in enumerate(("encoder, forward", "tuning step")):
        found += rows(what, [taken[str((mode, kind))] for mode in MODES], shape)
    report("modes", "itself in float32, not compiled", found, args)


if __name__ == "__main__":
    main()
