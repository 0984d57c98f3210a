"""BEATs in the Auto classes, pipelines, tuning and the embedder, and from a saved folder without the package."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_checks import check_saved_code, log_mels, mask_of, scramble
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoProcessor,
    pipeline,
)

from uamix_hf import (
    AudioEmbedder,
    AudioMAEFeatureExtractor,
    BeatsConfig,
    BeatsForAudioClassification,
    BeatsModel,
    UaMixForContrastiveTuning,
)
from uamix_hf.training.encoders import EncoderAdapter


def test_auto_classes_know_the_package_and_ask_nothing(config, tmp_path: Path, monkeypatch) -> None:
    BeatsForAudioClassification(config).save_pretrained(tmp_path)
    AudioMAEFeatureExtractor(max_length=192).save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert type(AutoConfig.from_pretrained(tmp_path)) is BeatsConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is BeatsModel
    assert type(AutoModelForAudioClassification.from_pretrained(tmp_path)) is BeatsForAudioClassification
    for auto in (AutoFeatureExtractor, AutoProcessor):
        assert type(auto.from_pretrained(tmp_path)) is AudioMAEFeatureExtractor
    assert not asked


def test_one_step_of_contrastive_tuning(config: BeatsConfig) -> None:
    """uaMix finds the layers by name, drops no token, and moves every weight of the encoder."""
    torch.manual_seed(0)
    model = UaMixForContrastiveTuning.from_encoder(
        BeatsModel(config),
        projector_hidden_size=24,
        projection_size=16,
        predictor_hidden_size=32,
        queue_size=12,
        topk=1,
    )
    adapter = model.adapter
    assert (adapter.layers_path, adapter.drops_tokens, adapter.variable_length) == ("layers", False, True)
    assert adapter.embedding_size == 48
    before = copy.deepcopy(model.encoder.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batch = {"input_values": log_mels(4, 192), "attention_mask": mask_of([192, 150, 100, 37], 192)}
    loss = model.train()(**batch, sample_id=torch.arange(4)).loss
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    still = [name for name, value in model.encoder.state_dict().items() if torch.equal(value, before[name])]
    # A bias common to all keys cancels in the softmax.
    assert [name for name in still if not name.endswith("k_proj.bias")] == []


def test_layers_and_what_comes_before_them_are_told_apart(model: BeatsModel) -> None:
    depth = EncoderAdapter(model).layer_ids()
    assert depth["relative_position_bias.embedding.weight"] == depth["position_conv.conv.weight"] == 0
    assert depth["layers.2.mlp.fc1.weight"] == 3 and set(depth.values()) == {0, 1, 2, 3}


def test_the_embedder_takes_it(model: BeatsModel) -> None:
    waves = [np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32) for n in (4000, 40_000)]
    embedder = AudioEmbedder(model, AudioMAEFeatureExtractor(max_length=192))
    assert embedder.encode(waves, progress_bar=False).shape == (2, 48)  # the second in two windows


def test_pipelines_classify(classifier, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path)
    AudioMAEFeatureExtractor(max_length=192).save_pretrained(tmp_path)
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000).astype(np.float32)
    scores = pipeline("audio-classification", model=str(tmp_path), device="cpu")(wave)
    assert {entry["label"] for entry in scores} == {f"LABEL_{i}" for i in range(5)}


@pytest.mark.parametrize("kind", [BeatsModel, BeatsForAudioClassification])
def test_the_code_in_a_saved_folder_computes_the_same(config: BeatsConfig, tmp_path: Path, kind: type) -> None:
    model = kind(config).eval()
    scramble(model)
    check_saved_code(model, log_mels(1, 64), tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "configuration_beats.py", "modeling_beats.py"}


STRANGER = """
import sys
sys.modules["uamix_hf"] = None  # as if it were not installed

import numpy as np
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

folder = Path(sys.argv[1])
for auto in (AutoConfig, AutoModel, AutoFeatureExtractor):
    try:
        auto.from_pretrained(folder)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError(f"{auto} ran code without being asked")
config, extractor, encoder, classifier = (
    auto.from_pretrained(folder, trust_remote_code=True)
    for auto in (AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification)
)
for thing in (config, extractor, encoder, classifier):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing)
inputs = extractor(np.load(folder / "wave.npy"), sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    outputs = {
        "pooler_output": encoder.eval()(**inputs).pooler_output, "logits": classifier.eval()(**inputs).logits
    }
save_file(outputs, folder / "outputs.safetensors")
"""


@pytest.mark.slow
def test_folders_load_and_compute_alike_where_the_package_is_absent(classifier, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    classifier.save_pretrained(folder)
    extractor = AudioMAEFeatureExtractor(max_length=192)
    extractor.save_pretrained(folder)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
    np.save(folder / "wave.npy", wave)
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(folder)],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    actual = load_file(folder / "outputs.safetensors")
    with torch.no_grad():
        inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
        torch.testing.assert_close(actual["pooler_output"], classifier.beats(**inputs).pooler_output)
        torch.testing.assert_close(actual["logits"], classifier(**inputs).logits)
