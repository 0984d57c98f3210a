"""Steps of pretraining and fine-tuning against Audio-MAE's own algorithm on timm's blocks (audio_mae_peer.py).

Both at the settings of its paper: local windows in the decoder, 80 % of the patches masked; in fine-tuning, 20 % of the
columns and of the bands dropped, stochastic depth 0.1 and 527 labels. A step is forward, backward and AdamW, in
float32. The peer reads 1024 frames whatever the clips' length, ours what whole patches cover. Clips of mixed length
come in batches of similar length, as LengthBucketTrainer makes them; both sides have the same batches. Widths are those
of the base preset, with a quarter of its layers: 3 in the encoder, 4 of 16 in the decoder.

python benchmarks/audio_mae.py
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from audio_mae_peer import PeerForClassification, PeerForPreTraining, pad_to_full
from compare import interleaved, parse, ratio_row, report
from torch import nn
from training_steps import make_clips

from uamix_hf import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEForPreTraining

BATCH, SECONDS = 8, 10
MIXED = (1.0, 10.0)  # seconds of the shortest and the longest clip
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
BARS = {"10 s": 1.2, "mixed": 2.0}


def make_config(small: bool, **changes: Any) -> AudioMAEConfig:
    """The base preset with few layers; `small` makes it narrow."""
    return AudioMAEConfig.preset("base", **(LAYERS | (SMALL if small else {}) | changes))


def mixed_batches(batch: int) -> list[dict[str, torch.Tensor]]:
    """Two batches of clips whose lengths are spread evenly over MIXED: the shorter half, the longer half."""
    lengths = torch.linspace(100 * MIXED[0] - 2, 100 * MIXED[1] - 2, 2 * batch).round().long()
    batches = []
    for half in lengths.chunk(2):
        longest = make_clips(batch, SECONDS)["input_values"][:, : -(-int(half.max()) // 16) * 16]
        valid = torch.arange(longest.shape[1]) < half[:, None]
        batches.append({"input_values": longest * valid[..., None], "attention_mask": valid.long()})
    return batches


def training_step(model: nn.Module, loss: Callable[..., torch.Tensor]) -> Callable[[Sequence[dict]], list[float]]:
    """A function that takes a step on each of several batches and returns their losses."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)

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
    ours, peer = AudioMAEForPreTraining(config), PeerForPreTraining(config)
    classifier, its_peer = AudioMAEForAudioClassification(labelled), PeerForClassification(labelled)
    pretrain = (training_step(ours, lambda **batch: ours(**batch).loss), training_step(peer, peer))
    fine_tune = (training_step(classifier, lambda **batch: classifier(**batch).loss), training_step(its_peer, its_peer))
    whole = {name: value for name, value in make_clips(batch, SECONDS).items() if name != "sample_id"}
    full = {"input_values": pad_to_full(whole["input_values"], config.max_length)}
    full["labels"] = (torch.rand(batch, labelled.num_labels) < 0.01).float()
    work = {}
    for name, steps, batches in (
        ("10 s", pretrain, [whole]),
        ("mixed", pretrain, mixed_batches(batch)),
        ("fine-tuning", fine_tune, [full]),
    ):
        theirs = [padded(one, config.max_length) for one in batches]
        work[name] = (partial(steps[0], batches), partial(steps[1], theirs))
    return work


def main() -> None:
    args = parse()
    batch = 2 if args.small else BATCH
    config, work = make_config(args.small), sides(args.small, batch)
    named = {f"{name}, {side}": one for name, both in work.items() for side, one in zip("op", both, strict=True)}
    seconds = interleaved(named, args.repeats)
    encoder = f"hidden size {config.hidden_size}, {config.num_hidden_layers} layers"
    model = f"{encoder} + {config.decoder_num_hidden_layers} of decoder"
    cases = {
        "10 s": (f"pretraining, {batch} clips of {SECONDS} s, {model}", batch),
        "mixed": (f"pretraining, {2 * batch} clips of {MIXED[0]:g} to {MIXED[1]:g} s, {model}", 2 * batch),
        "fine-tuning": (f"fine-tuning, {batch} clips of 1024 frames, {encoder}", batch),
    }
    rows = [
        ratio_row(case, {side: seconds[f"{name}, {side}"] for side in "op"}, clips, "clips", BARS.get(name))
        for name, (case, clips) in cases.items()
    ]
    report("audio_mae", f"Audio-MAE's algorithm on timm {version('timm')}, padded to 1024 frames", rows, args)


if __name__ == "__main__":
    main()
