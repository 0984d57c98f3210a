"""Clips that the encoder reads in a second, against transformers' ASTModel of the same hidden size, layers and heads.

Both cut 16 x 16 patches without overlap, attend through SDPA, and keep no gradients. AST takes 1024 frames whatever a
clip's length, so shorter clips are padded to it; ours pads to whole patches. Where both read 1024 frames, they have the
same tokens but for AST's second prefix token.

python benchmarks/encoder.py
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from compare import interleaved, parse, ratio_row, report
from torch.nn import functional as F
from transformers import ASTConfig, ASTModel

from uamix_hf import AudioMAEConfig, AudioMAEModel

BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 3}
SMALL = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "num_hidden_layers": 2}
FRAMES = {"10 s": 998, "5 s": 498, "1 s": 98, "1024 frames": 1024}
BARS = {"10 s": 1.0, "5 s": 1.9, "1 s": 7.0}
AST_FRAMES = 1024
PEER = "ASTModel"


def models(size: dict[str, Any]) -> tuple[AudioMAEModel, ASTModel]:
    """Ours and AST with random weights, in evaluation mode."""
    ours = AudioMAEModel(AudioMAEConfig(**size))
    peer = ASTModel(ASTConfig(**size, frequency_stride=16, time_stride=16, layer_norm_eps=ours.config.layer_norm_eps))
    return ours.eval(), peer.eval()


def log_mels(frames: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips as our feature extractor returns them: values (batch, frames, 128) and attention mask (batch, frames)."""
    padding = math.ceil(frames / 16) * 16 - frames
    values = torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(batch, frames, dtype=torch.int64)
    return F.pad(values, (0, 0, 0, padding)), F.pad(mask, (0, padding))


def sides(size: dict[str, Any], batch: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Work by name: ours on clips of each length, and AST, which has the same work with any."""
    ours, peer = models(size)

    def embed(frames: int) -> Callable[[], torch.Tensor]:
        values, mask = log_mels(frames, batch)
        return lambda: ours(values, mask).pooler_output

    values, _ = log_mels(FRAMES["10 s"], batch)
    padded = F.pad(values, (0, 0, 0, AST_FRAMES - values.shape[1]))
    work = {name: embed(frames) for name, frames in FRAMES.items()}
    return work | {PEER: lambda: peer(padded).pooler_output}


def main() -> None:
    args = parse()
    size, batch = (SMALL, 2) if args.small else (BASE, 8)
    with torch.no_grad():
        seconds = interleaved(sides(size, batch), args.repeats)
    shape = f"{size['num_hidden_layers']} layers, hidden size {size['hidden_size']}, batch of {batch}"
    rows = [
        ratio_row(f"{name}, {shape}", {"ours": seconds[name], PEER: seconds[PEER]}, batch, "clips", BARS.get(name))
        for name in FRAMES
    ]
    report("encoder", "transformers' ASTModel, 1024 frames", rows, args)


if __name__ == "__main__":
    main()
