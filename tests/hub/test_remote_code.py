"""Saved folders load through every Auto class where this package is absent, if their code is trusted, and compute the
same; where it is installed, pipelines work."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline
from travelling import AUDIO_MAE_CODE

from uamix_hf import (
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
)

MEAN, STD = -5.0, 3.5

STRANGER = """
import sys
sys.modules["uamix_hf"] = None  # as if it were not installed
try:
    import uamix_hf
except ImportError:
    pass
else:
    raise AssertionError("the package is here")

import numpy as np
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoModelForPreTraining
)

root = Path(sys.argv[1])
wave = np.load(root / "wave.npy")
noise = torch.from_numpy(np.load(root / "noise.npy"))
auto_classes = [AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForAudioClassification]
outputs = {}
for name in ("encoder", "pretraining", "classifier"):
    folder = root / name
    for auto in auto_classes:
        for options in ({"trust_remote_code": False}, {}):
            try:
                auto.from_pretrained(folder, **options)
            except ValueError as error:
                assert "trust_remote_code" in str(error), error
            else:
                raise AssertionError(f"{auto} ran code without being asked")
    assert not any(module.startswith("transformers_modules") for module in sys.modules) or name != "encoder"

    config, extractor, encoder, pretraining, classifier = (
        auto.from_pretrained(folder, trust_remote_code=True) for auto in auto_classes
    )
    for thing in (config, extractor, encoder, pretraining, classifier):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    inputs = extractor(wave, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        outputs[f"{name}.input_values"] = inputs["input_values"]
        outputs[f"{name}.pooler_output"] = encoder.eval()(**inputs).pooler_output
        if name == "pretraining":
            outputs["logits"] = pretraining.eval()(**inputs, noise=noise).logits
            outputs["log_offsets"] = pretraining.decoder.layers[1].attention.log_offsets
        if name == "classifier":
            outputs["probabilities"] = classifier.eval()(**inputs).logits.softmax(-1)
    kept = {"encoder": encoder, "pretraining": pretraining, "classifier": classifier}[name]
    kept.save_pretrained(root / "again" / name)
    extractor.save_pretrained(root / "again" / name)
save_file({name: value.contiguous() for name, value in outputs.items()}, root / "outputs.safetensors")
assert sys.modules["uamix_hf"] is None
"""


@pytest.fixture
def models(tiny_config: AudioMAEConfig) -> dict:
    torch.manual_seed(0)
    local = AudioMAEConfig(**{**tiny_config.to_dict(), "decoder_type": "local"})
    labelled = AudioMAEConfig(**{**tiny_config.to_dict(), "pooling": "mean_fc_norm", "id2label": {0: "cat", 1: "dog"}})
    models = {
        "encoder": AudioMAEModel(AudioMAEConfig(**{**tiny_config.to_dict(), "pooling": "cls"})),
        "pretraining": AudioMAEForPreTraining(local),
        "classifier": AudioMAEForAudioClassification(labelled),
    }
    for model in models.values():
        for parameter in model.parameters():  # nothing is as it was initialised
            parameter.data += 0.05 * torch.randn_like(parameter)
    return {name: model.eval() for name, model in models.items()}


def test_folders_load_and_compute_alike_where_the_package_is_absent(models: dict, tmp_path: Path) -> None:
    extractor = AudioMAEFeatureExtractor(mean=MEAN, std=STD, max_length=192)
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        extractor.save_pretrained(tmp_path / name)
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.5, 0.5, 20_000).astype(np.float32)
    inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
    noise = rng.random((1, inputs["input_values"].shape[1] // 16 * 8)).astype(np.float32)
    np.save(tmp_path / "wave.npy", wave)
    np.save(tmp_path / "noise.npy", noise)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(tmp_path)],
        cwd=elsewhere, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr

    actual = load_file(tmp_path / "outputs.safetensors")
    with torch.no_grad():
        for name, model in models.items():
            encoder = model if name == "encoder" else model.audio_mae
            torch.testing.assert_close(actual[f"{name}.input_values"], inputs["input_values"], rtol=0, atol=1e-6)
            torch.testing.assert_close(actual[f"{name}.pooler_output"], encoder(**inputs).pooler_output)
        logits = models["pretraining"](**inputs, noise=torch.from_numpy(noise)).logits
        torch.testing.assert_close(actual["logits"], logits)
        attention = models["pretraining"].decoder.layers[1].attention
        assert torch.equal(
            actual["log_offsets"], attention.fixed_buffers()["log_offsets"]
        )  # a buffer that no file holds
        assert attention.log_offsets.abs().max() > 1
        torch.testing.assert_close(actual["probabilities"], models["classifier"](**inputs).logits.softmax(-1))

    for name, model in models.items():
        # What a stranger saves again is complete, and the package reads it.
        first, again = tmp_path / name, tmp_path / "again" / name
        assert AUDIO_MAE_CODE <= {path.name for path in again.iterdir()} == {path.name for path in first.iterdir()}
        for file in AUDIO_MAE_CODE:
            assert (again / file).read_text() == (first / file).read_text()
        loaded = type(model).from_pretrained(again)
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
        assert AudioMAEFeatureExtractor.from_pretrained(again).mean == MEAN


def test_saved_folders_hold_no_pickle(models: dict, tmp_path: Path) -> None:
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        AudioMAEFeatureExtractor().save_pretrained(tmp_path / name)
        files = {path.name for path in (tmp_path / name).iterdir()}
        assert files == {"config.json", "model.safetensors", "preprocessor_config.json", *AUDIO_MAE_CODE}


@pytest.mark.parametrize("samples", [16_000, 100])
def test_classification_pipeline_takes_arrays(models: dict, tmp_path: Path, samples: int) -> None:
    models["classifier"].save_pretrained(tmp_path)
    extractor = AudioMAEFeatureExtractor()
    extractor.save_pretrained(tmp_path)
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, samples).astype(np.float32)
    with torch.no_grad():
        inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
        expected = models["classifier"](**inputs).logits.softmax(-1)[0].tolist()
    classify = pipeline("audio-classification", model=str(tmp_path), device="cpu")
    for source in (wave, {"raw": wave, "sampling_rate": 16_000}):
        scores = {entry["label"]: entry["score"] for entry in classify(source)}
        assert scores == pytest.approx({"cat": expected[0], "dog": expected[1]}, abs=1e-6)
    # Padding to the longer clip of a batch changes nothing.
    longer = np.random.default_rng(2).uniform(-0.5, 0.5, 30_000).astype(np.float32)
    first, _ = classify([wave, longer], batch_size=2)
    assert {entry["label"]: entry["score"] for entry in first} == pytest.approx(scores, abs=1e-5)
