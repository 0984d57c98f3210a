"""A step of tuning against NNCLR of lightly on the same encoder, and the peak memory of both.

The peer is NNCLR as lightly's documentation puts it together: `NNCLRProjectionHead`, `NNCLRPredictionHead`,
`NNMemoryBankModule` and `NTXentLoss`, two passes of the encoder for two views. They are of 1024 frames, which lightly
is given ready-made; it has no mixtures, so that ours does more by them. Ours is the default recipe, for an hour of
audio or more (half of the tokens dropped) and for less (none dropped). Widths of heads, places in the neighbour queue,
temperature and AdamW are the same. Clips of 10 s, hidden size of the base preset with 2 layers. Memory as in memory.py,
at most 3 rounds, with our views as long as the clip.

python benchmarks/lightly_nnclr.py
"""

import statistics
from functools import partial
from importlib.metadata import version

import torch
from compare import BenchmarkArguments, Row, interleaved, parse, ratio_row, report
from peak_memory import MOST_ROUNDS, added_peak, in_own_process
from peer_packages import find_peers
from torch import nn
from training_steps import describe, given_views, make_clips, make_model, training_step
from tuning import with_even_crops

from uamix_hf import AudioMAEModel, UaMixConfig

find_peers()
from lightly.loss import NTXentLoss  # noqa: E402
from lightly.models.modules import NNCLRPredictionHead, NNCLRProjectionHead, NNMemoryBankModule  # noqa: E402

LAYERS, CLIPS, SECONDS = 2, 6, 10
BAR = 1.5


class NNCLR(nn.Module):
    """lightly's NNCLR; a call returns the loss of two views (batch, frames, mel bins), normalised."""

    def __init__(self, encoder: AudioMAEModel, config: UaMixConfig):
        super().__init__()
        self.encoder = encoder
        size, width = config.projection_size, encoder.config.embedding_size
        self.projection = NNCLRProjectionHead(width, config.projector_hidden_size, size)
        self.prediction = NNCLRPredictionHead(size, config.predictor_hidden_size, size)
        self.bank = NNMemoryBankModule(size=(config.queue_size, size))
        self.criterion = NTXentLoss(temperature=config.temperature)

    def forward(self, view_a: torch.Tensor, view_b: torch.Tensor) -> torch.Tensor:
        projected = [self.projection(self.encoder(input_values=view).pooler_output) for view in (view_a, view_b)]
        predicted = [self.prediction(one) for one in projected]
        nearest_a = self.bank(projected[0].detach(), update=False)
        nearest_b = self.bank(projected[1].detach(), update=True)
        return (self.criterion(nearest_a, predicted[1]) + self.criterion(nearest_b, predicted[0])) / 2

    def update_target(self) -> None:
        """NNCLR has no target network."""


def make_peer(small: bool) -> tuple[NNCLR, dict[str, torch.Tensor]]:
    """lightly's NNCLR on our encoder with its initial weights, and the two views of a batch."""
    model = make_model(small, LAYERS)
    given = given_views(model, CLIPS, SECONDS)
    return NNCLR(model.encoder, model.config).train(), {name: given[name] for name in ("view_a", "view_b")}


def step_memory(side: str, small: bool, threads: int) -> int:
    """Bytes that one step adds, after one on two short clips."""
    torch.set_num_threads(threads)
    if side == "ours":
        model = make_model(small, LAYERS, min_crop=1)
        first, batch = make_clips(2, 1), make_clips(CLIPS, SECONDS)
        step = training_step(model, lambda **batch: model(**batch).loss)
    else:
        peer, batch = make_peer(small)
        first = {name: view[:2, :96] for name, view in batch.items()}
        step = training_step(peer, peer)
    step(**first)
    return added_peak(lambda: step(**batch))


def memory_row(args: BenchmarkArguments, shape: str) -> Row:
    """Peak memory per clip of both, each round in processes of their own."""
    measured = []
    for _ in range(min(args.repeats, MOST_ROUNDS)):
        pair = (in_own_process(step_memory, side, args.small, args.threads) for side in ("ours", "peer"))
        measured.append([value / CLIPS for value in pair])
    ours, peer = zip(*measured, strict=True)
    shares = [own / theirs for own, theirs in zip(ours, peer, strict=True)]
    words = [f"{statistics.median(side) / 2**20:,.4g} MiB/clip" for side in (ours, peer)]
    case = f"peak memory, default recipe for an hour of audio, {shape}"
    return Row(case, *words, statistics.median(shares), min(shares), max(shares), at_least=False)


def main() -> None:
    args = parse()
    peer, views = make_peer(args.small)
    models = {
        "hour of audio": make_model(args.small, LAYERS, token_drop=0.5),
        "less audio": make_model(args.small, LAYERS, token_drop=0.0),
    }
    sides = {"peer": partial(training_step(peer, peer), **views)}
    for name, model in models.items():
        step = training_step(model, lambda batch, model=model: model(**batch).loss)
        sides[name] = partial(with_even_crops(step, model, args.repeats), make_clips(CLIPS, SECONDS))
    seconds = interleaved(sides, args.repeats)
    shape = describe(models["less audio"], CLIPS, SECONDS)
    rows = [
        ratio_row(
            f"default recipe for {words}, {shape}", {name: seconds[name], "peer": seconds["peer"]}, CLIPS, "clips", bar
        )
        for name, words, bar in (("hour of audio", "an hour of audio", BAR), ("less audio", "less audio", None))
    ]
    rows.append(memory_row(args, shape))
    report("lightly_nnclr", f"NNCLR of lightly {version('lightly')}, two views of 1024 frames", rows, args)


if __name__ == "__main__":
    main()
