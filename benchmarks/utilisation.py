"""Operations per second of the base encoder's forward pass and of a step of tuning, as fractions of those of a large
float32 matrix product that is measured in turns with them.

Floating-point operations are those of matrix products and convolutions, counted by PyTorch as they run, with attention
as its two products. The pass is without gradient, of all 12 layers. The step is our default recipe with 3 layers, but
with views as long as the clip, so that every step does the same work; what it does besides (views, normalisation,
AdamW, target) takes time and counts nothing.

python benchmarks/utilisation.py
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from compare import Row, interleaved, parse, report
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_steps import describe, make_clips, make_model, training_step

LAYERS, STEP_LAYERS, CLIPS, SECONDS = 12, 3, 4, 10
SIDE, SMALL_SIDE = 4096, 256  # of the square matrices


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations that it does."""
    # The fused attention of the CPU is not in PyTorch's counter; the plain one does the same two products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def share_row(
    case: str, count: int, seconds: Sequence[float], peer_count: int, peer: Sequence[float], bar: float
) -> Row:
    """Operations per second as a fraction of the peer's, round by round."""
    shares = [count / own * theirs / peer_count for own, theirs in zip(seconds, peer, strict=True)]
    rates = [number / statistics.median(side) / 1e9 for number, side in ((count, seconds), (peer_count, peer))]
    words = [f"{rate:,.4g} GFLOP/s" for rate in rates]
    return Row(case, *words, statistics.median(shares), min(shares), max(shares), bar)


def main() -> None:
    args = parse()
    batch = make_clips(CLIPS, SECONDS)
    encoded = make_model(args.small, LAYERS)
    encoder = encoded.encoder.eval()
    tuned = make_model(args.small, STEP_LAYERS, min_crop=1)
    step = training_step(tuned, lambda batch: tuned(**batch).loss)
    side = SMALL_SIDE if args.small else SIDE
    left, right, product = torch.randn(3, side, side)

    def forward() -> None:
        with torch.no_grad():
            encoder(batch["input_values"], batch["attention_mask"])

    sides: dict[str, Callable[[], object]] = {
        "product": partial(torch.mm, left, right, out=product),
        "forward": forward,
        "step": partial(step, batch),
    }
    counts = {name: operations(work) for name, work in sides.items()}
    seconds = interleaved(sides, args.repeats)

    def row(case: str, name: str, bar: float) -> Row:
        return share_row(case, counts[name], seconds[name], counts["product"], seconds["product"], bar)

    rows = [
        row(f"encoder, forward, {describe(encoded, CLIPS, SECONDS)}", "forward", 0.6),
        row(f"tuning step, {describe(tuned, CLIPS, SECONDS)}", "step", 0.5),
    ]
    report("utilisation", f"float32 product of two {side} x {side} matrices", rows, args)


if __name__ == "__main__":
    main()
