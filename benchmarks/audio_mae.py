"""Steps of pretraining and fine-tuning against Audio-MAE's own algorithm on timm's blocks (audio_mae_peer.py).

Both at the settings of its paper: local windows in the decoder, 80 % of the patches masked; in fine-tuning, 20 % of the
columns and of the bands dropped, stochastic depth 0.1 and 527 labels. A step is forward, backward and AdamW, in
float32; AdamW is the Trainer's for ours and torch's default, as in Audio-MAE's code, for the peer. The peer reads 1024
frames whatever the clips' length, ours what whole patches cover. Clips of mixed length come in the batches that
LengthBucketTrainer makes of 400 clips, of which some are taken, from the shortest to the longest; both sides have the
same ones. Widths are those of the base preset, with a quarter of its layers: 3 in the encoder, 4 of 16 in the decoder.
What bounds the ratio is the number of operations: that of a step of 10 s is counted on both sides.

python benchmarks/audio_mae.py
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from audio_mae_peer import PeerForClassification, PeerForPreTraining, pad_to_full
from compare import Row, interleaved, parse, ratio_row, report
from mixed_batches import EPOCH, MIXED, TAKEN, mixed_batches
from torch import nn
from training_steps import make_clips, trainers_optimizer
from utilisation import operations

from uamix_hf import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEForPreTraining

BATCH, SECONDS = 8, 10
LAYERS = {"num_hidden_layers": 3, "decoder_num_hidden_layers": 4, "decoder_type": "local"}
SMALL = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "decoder_hidden_size": 32,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
}
FINE_TUNING = {
    "num_labels": 527,
    "problem_type": "multi_label_classification",
    "pooling": "mean_fc_norm",
    "drop_path_rate": 0.1,
    "patchout_time_ratio": 0.2,
    "patchout_mel_ratio": 0.2,
}
BARS = {"10 s": 1.2, "1 to 10 s": 2.0, "1 to 5 s": 2.0}


def make_config(small: bool, **changes: Any) -> AudioMAEConfig:
    """The base preset with few layers; `small` makes it narrow."""
    return AudioMAEConfig.preset("base", **(LAYERS | (SMALL if small else {}) | changes))


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[..., torch.Tensor]
) -> Callable[[Sequence[dict]], list[float]]:
    """A function that takes a step on each of several batches and returns their losses."""

    def steps(batches: Sequence[dict]) -> list[float]:
        losses = []
        for batch in batches:
            value = loss(**batch)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(value.item())
        return losses

    return steps


def padded(batch: dict[str, torch.Tensor], frames: int) -> dict[str, torch.Tensor]:
    """The batch as the peer takes it."""
    rest = {name: batch[name] for name in ("labels",) if name in batch}
    return {"log_mels": pad_to_full(batch["input_values"], frames), **rest}


def sides(small: bool, batch: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Work of ours and of the peer, by name."""
    config, labelled = make_config(small), make_config(small, **FINE_TUNING)
    options = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.05}

    def both_steps(ours: nn.Module, peer: nn.Module) -> tuple[Callable, Callable]:
        own = trainers_optimizer(ours.train().parameters(), **options)
        theirs = torch.optim.AdamW(peer.train().parameters(), **options)
        return training_step(ours, own, lambda **batch: ours(**batch).loss), training_step(peer, theirs, peer)

    pretrain = both_steps(AudioMAEForPreTraining(config), PeerForPreTraining(config))
    fine_tune = both_steps(AudioMAEForAudioClassification(labelled), PeerForClassification(labelled))
    whole = {name: value for name, value in make_clips(batch, SECONDS).items() if name != "sample_id"}
    full = {"input_values": pad_to_full(whole["input_values"], config.max_length)}
    full["labels"] = (torch.rand(batch, labelled.num_labels) < 0.01).float()
    work = {}
    for name, steps, batches in (
        ("10 s", pretrain, [whole]),
        *((name, pretrain, mixed_batches(batch, *seconds)) for name, seconds in MIXED.items()),
        ("fine-tuning", fine_tune, [full]),
    ):
        theirs = [padded(one, config.max_length) for one in batches]
        work[name] = (partial(steps[0], batches), partial(steps[1], theirs))
    return work


def operations_row(case: str, ours: Callable[[], object], peer: Callable[[], object]) -> Row:
    """How many times the operations of ours the peer's are."""
    counts = [operations(side) for side in (ours, peer)]
    value = counts[1] / counts[0]
    return Row(case, *(f"{count / 1e9:,.4g} GFLOP" for count in counts), value, value, value)


def main() -> None:
    args = parse()
    batch = 2 if args.small else BATCH
    config, work = make_config(args.small), sides(args.small, batch)
    named = {f"{name}, {side}": one for name, both in work.items() for side, one in zip("op", both, strict=True)}
    seconds = interleaved(named, args.repeats)
    encoder = f"hidden size {config.hidden_size}, {config.num_hidden_layers} layers"
    model = f"{encoder} + {config.decoder_num_hidden_layers} of decoder"
    cases = {"10 s": (f"pretraining, {batch} clips of {SECONDS} s, {model}", batch)}
    cases |= {
        name: (f"pretraining, {TAKEN} of {EPOCH} batches of {batch} clips of {name}, {model}", TAKEN * batch)
        for name in MIXED
    }
    cases["fine-tuning"] = (f"fine-tuning, {batch} clips of 1024 frames, {encoder}", batch)
    rows = [
        ratio_row(case, {side: seconds[f"{name}, {side}"] for side in "op"}, clips, "clips", BARS.get(name))
        for name, (case, clips) in cases.items()
    ]
    rows.append(operations_row(f"operations of pretraining, {batch} clips of {SECONDS} s, {model}", *work["10 s"]))
    report("audio_mae", f"Audio-MAE's algorithm on timm {version('timm')}, padded to 1024 frames", rows, args)


if __name__ == "__main__":
    main()
