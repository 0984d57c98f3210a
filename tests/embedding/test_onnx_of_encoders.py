"""Encoders as ONNX, for any number of clips and, where they take them, of frames: another runtime gives the same."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from all_encoders import KINDS, WAVEFORMS, write_encoder
from torch import nn

from uamix_hf.embedding import load_encoder

# The scan of SSAMBA is a loop over tokens, which the exporter cannot follow.
EXPORTED = [kind for kind in KINDS if kind != "ssamba"]
# The exporter cannot follow a bias of attention through SDPA.
EAGER = ("beats", "openbeats", "wav2vec2-bert")
FIXED = {"ast": (128, 128), "clap": (1, 1001, 64), "whisper": (80, 3000), "qwen2_audio_encoder": (128, 3000)}
TOLERANCE = 1e-4  # relative to the output's scale

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the exporter, about itself


class Output(nn.Module):
    """One tensor in, one tensor out: the pooled output where the encoder has one."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output = self.encoder(inputs)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state if pooled is None else pooled


@pytest.mark.parametrize("kind", EXPORTED)
@torch.no_grad()
def test_onnx_runtime_computes_the_same(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    write_encoder(kind, tmp_path, request.getfixturevalue("fixtures"))
    encoder = load_encoder(tmp_path, attn_implementation="eager" if kind in EAGER else None).eval()
    config, model = encoder.config, Output(encoder)
    sizes: dict[int, object] = {0: torch.export.Dim("clips")}
    lengths = [64, 96]
    if kind in FIXED:
        shapes = [FIXED[kind]]
    elif kind in WAVEFORMS or kind == "wav2vec2-bert":
        sizes[1] = torch.export.Dim.AUTO
        shapes = [(160 * n,) if kind in WAVEFORMS else (n, 160) for n in lengths]
    else:
        patch = config.patch_size
        stride = getattr(config, "time_stride", None) or patch
        columns = torch.export.Dim("columns", max=20)
        sizes[1] = patch * columns if stride == patch else stride * columns + (patch - stride)
        shapes = [(patch + stride * (n // stride - 1), config.num_mel_bins) for n in lengths]

    def clips(number: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(number, *shape, generator=torch.Generator().manual_seed(number))

    program = torch.onnx.export(model, (clips(2, shapes[0]),), dynamo=True, dynamic_shapes=(sizes,))
    assert program is not None
    program.save(tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for inputs in (clips(3, shapes[0]), clips(2, shapes[-1]), clips(1, shapes[-1])):
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        expected = model(inputs).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
