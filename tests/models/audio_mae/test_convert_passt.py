"""PaSST's checkpoints as Audio-MAE models, against outputs of the official code."""

from pathlib import Path

import pytest
import torch
from converted import assert_official, frequency_major, logits, outputs
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf.models.audio_mae.convert_passt import stride_of
from uamix_hf.models.checkpoint import CheckpointError

PASST = {
    ("stride10", "full"): 996, ("stride10", "short"): 496, ("stride10", "long"): 996,
    ("stride16", "full"): 992, ("stride16", "short"): 304,
}  # fmt: skip


@pytest.mark.parametrize("file,case", PASST)
def test_passt(folder, official, file: str, case: str) -> None:
    """Of the official input, only frames that whole patches within the position table cover are used."""
    io, target = official("passt", file), folder("passt", file)
    inputs, prefix = io["input_values"].transpose(1, 2)[:, : PASST[file, case]], "" if case == "full" else f"{case}."
    bands = 12 if file == "stride10" else 8
    output = outputs(target, inputs, output_hidden_states=True)
    if f"{prefix}last_hidden_state" in io:
        assert_official(frequency_major(output.last_hidden_state, 2, bands), io[f"{prefix}last_hidden_state"])
    if case == "full":
        assert_official(frequency_major(output.hidden_states[1], 2, bands), io["hidden_after_block0"])
        assert AutoModel.from_pretrained(target).config.max_length == inputs.shape[1]
    assert_official(output.pooler_output, io[f"{prefix}embedding"])
    assert_official(logits(target, inputs), io[f"{prefix}logits"])


@pytest.mark.parametrize("file", ["stride10", "stride16"])
def test_passt_from_a_waveform(folder, official, fixtures: Path, file: str) -> None:
    waveform = load_file(fixtures / "passt" / "frontend_io.safetensors")["waveform"]
    target = folder("passt", file)
    inputs = AutoFeatureExtractor.from_pretrained(target)(waveform, 32_000, return_tensors="pt")
    found = torch.cat([logits(target, inputs.input_values), outputs(target, **inputs).pooler_output], dim=1)
    assert_official(found, official("passt", file)["from_waveform.embedding_hear"])


@pytest.mark.parametrize("bands,stride", [(12, 10), (10, 12), (9, 14), (8, 16)])
def test_strides_follow_from_the_positions_in_frequency(bands: int, stride: int) -> None:
    assert stride_of(bands, 16) == stride


def test_strides_that_skip_mel_bins_are_refused() -> None:
    with pytest.raises(CheckpointError, match="6 positions.*larger strides skip mel bins"):
        stride_of(6, 16)  # a stride of 20
