"""The encoder as ONNX, for any number of clips and of whole patches: another runtime gives the same embeddings."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from toy_sounds import CONFIG

from uamix_hf import AudioMAEModel

SIDE, MEL = CONFIG.patch_size, CONFIG.num_mel_bins


class Pooled(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, model: AudioMAEModel):
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(input_values=input_values, attention_mask=attention_mask)
        return output.last_hidden_state, output.pooler_output


def batch(clips: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mels and a mask; the last clip is shorter than the others."""
    mask = torch.ones(clips, frames, dtype=torch.long)
    mask[-1, frames - SIDE - 4 :] = 0
    return torch.randn(clips, frames, MEL, generator=torch.Generator().manual_seed(frames)), mask


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
@pytest.mark.parametrize(
    "pooling",
    [
        "mean",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mean_time", "mean_std_time", "std_time", "attention")
        ),
    ],
)
def test_onnx_runtime_gives_the_same_embeddings(pooling: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AudioMAEModel(type(CONFIG)(**CONFIG.to_diff_dict() | {"pooling": pooling})).eval()
    clips, columns = torch.export.Dim("clips"), torch.export.Dim("columns", max=CONFIG.max_length // SIDE)
    shapes = {0: clips, 1: SIDE * columns}
    program = torch.onnx.export(Pooled(model).eval(), batch(2, 48), dynamo=True, dynamic_shapes=(shapes, shapes))
    assert program is not None
    program.save(tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for inputs in (batch(2, 48), batch(3, 64), batch(5, 32)):
        named = {given.name: value.numpy() for given, value in zip(session.get_inputs(), inputs, strict=True)}
        tokens, pooled = session.run(None, named)
        with torch.no_grad():
            expected = model(*inputs)
        np.testing.assert_allclose(pooled, expected.pooler_output.numpy(), atol=1e-5)
        assert tokens.shape == expected.last_hidden_state.shape
