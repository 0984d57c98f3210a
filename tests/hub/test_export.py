"""What is published is small, loads as float32 and embeds as the original does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoFeatureExtractor, AutoModel

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForPreTraining
from uamix_hf.__main__ import main
from uamix_hf.hub.export import export_encoder

TINY = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = AudioMAEForPreTraining(AudioMAEConfig.preset("tiny", **TINY, whitening_size=32))
    # Directions of very different spread, as whitening has them.
    basis = torch.linalg.qr(torch.randn(32, 32)).Q
    model.audio_mae.whitening.matrix.copy_(basis @ torch.diag(torch.logspace(0, 4, 32)) @ basis.T)
    model.audio_mae.whitening.mean.normal_()
    model.save_pretrained(tmp_path / "pretrained")
    AudioMAEFeatureExtractor(mean=-6.5, std=3.25).save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_the_encoder_alone_in_half_precision_loads_as_float32(pretrained: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "published"
    assert main(["export", str(pretrained), str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    with safe_open(target / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    assert not any("decoder" in name for name in stored)
    assert {name for name, value in stored.items() if value.dtype != torch.float16} == {
        "whitening.mean",
        "whitening.matrix",
    }
    original = AutoModel.from_pretrained(pretrained)
    model, loading = AutoModel.from_pretrained(target, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    for name, value in model.state_dict().items():
        expected = original.state_dict()[name]
        exact = name.startswith("whitening")
        torch.testing.assert_close(value, expected if exact else expected.half().float(), rtol=0, atol=0)
    extractor = AutoFeatureExtractor.from_pretrained(target)
    assert (extractor.mean, extractor.std) == (-6.5, 3.25)
    assert json.loads((target / "config.json").read_text())["model_type"] == "audio_mae"


def test_embeddings_hardly_change(pretrained: Path, tmp_path: Path) -> None:
    model = AudioMAEForPreTraining.from_pretrained(pretrained)
    model.audio_mae.whitening.matrix.copy_(torch.eye(32))
    model.save_pretrained(pretrained)
    export_encoder(pretrained, tmp_path / "published")
    inputs = torch.randn(8, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (
            AutoModel.from_pretrained(path)(inputs).pooler_output.numpy()
            for path in (pretrained, tmp_path / "published")
        )
    np.testing.assert_allclose(after, before, atol=1e-2)
    assert np.abs(after - before).max() > 0  # they were rounded


def test_what_cannot_be_exported_is_refused(pretrained: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 1
    model = AudioMAEForPreTraining.from_pretrained(pretrained)
    with torch.no_grad():
        model.audio_mae.layers[0].mlp.fc1.weight[0, 0] = 1e6
    model.save_pretrained(pretrained)
    assert main(["export", str(pretrained), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "layers.0.mlp.fc1.weight" in said and "float16" in said
    assert not (tmp_path / "out").exists()
