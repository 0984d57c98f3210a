"""What tests of converted checkpoints share."""

from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForAudioClassification

ONE_OF_EACH = {
    "ssast": ("pretrained_patch", {}), "matpac": ("pretrained", {}), "passt": ("stride10", {}),
    "birdmae": ("encoder_release", {}), "asit": ("pretrained", {}),
}  # fmt: skip
CASES = [
    *((system, *case) for system, case in ONE_OF_EACH.items()),
    ("ssast", "pretrained_frame", {"time_stride": 1, "max_length": 300}),
    ("ssast", "finetuned_patch", {"time_stride": 10, "mel_stride": 10}),
]

TOLERANCE = 2e-5  # relative to the output's scale


def assert_official(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= TOLERANCE, error


def frequency_major(tokens: torch.Tensor, prefix: int, bands: int) -> torch.Tensor:
    """Our tokens (batch, prefix + columns * bands, width) in the official order."""
    rows = tokens[:, prefix:].unflatten(1, (-1, bands)).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :prefix], rows], dim=1)


@torch.no_grad()
def outputs(folder: Path, input_values: torch.Tensor, **options):
    return AutoModel.from_pretrained(folder).eval()(input_values.contiguous(), **options)


@torch.no_grad()
def logits(folder: Path, input_values: torch.Tensor) -> torch.Tensor:
    return AutoModelForAudioClassification.from_pretrained(folder).eval()(input_values.contiguous()).logits
