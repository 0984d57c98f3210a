"""examples/finetune.py and pseudo_labels.py with encoders that have no classifier of their own, from end to end."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from all_encoders import write_encoder
from hub_server import HubServer
from processes import launch
from toy_sounds import tones, write_tones
from transformers import pipeline

from uamix_hf import AudioEmbedder
from uamix_hf.embedding import load_encoder
from uamix_hf.embedding.kinds import settings_of

EXAMPLES = Path(__file__).parents[2] / "examples"
WAVES, LABELS = tones(15)
SHORT = ("--use_cpu", "--report_to", "none", "--per_device_train_batch_size", 4, "--disable_tqdm", "true")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tones(tmp_path_factory.mktemp("tones") / "recordings", 15)
    rows = [f"{number:02d}.wav,{'abc'[label]}" for number, label in enumerate(LABELS)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return folder


def finetune_flags(encoder: Path, recordings: Path, output: Path, *flags: object) -> list[str]:
    fixed = [
        "--model_name_or_path",
        encoder,
        "--train_dir",
        recordings,
        "--output_dir",
        output,
        "--label_column",
        "label",
    ]
    return [*map(str, [*fixed, "--save_strategy", "no", *SHORT, *flags])]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whisper", "wav2vec2-layer-norm"])
def test_a_classifier_is_trained_with_fixmatch_and_pushed(kind: str, recordings: Path, tmp_path: Path) -> None:
    encoder, output = write_encoder(kind, tmp_path / "encoder"), tmp_path / "classifier"
    flags = finetune_flags(
        encoder, recordings, output, "--embedding_layer", 1, "--pooling", "mean", "--k_shot", 2, "--fixmatch", "true",
        "--unlabelled_ratio", 2, "--max_steps", 2, "--push_to_hub", "--hub_model_id", "user/classifier",
    )  # fmt: skip
    with HubServer() as hub:
        launch(EXAMPLES / "finetune.py", *flags, environment=hub.environment(tmp_path / "home"))
        files = hub.files("user/classifier")
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= set(files)
    config = json.loads((output / "config.json").read_text())
    assert config["architectures"] == ["EncoderForAudioClassification"]
    assert (config["embedding_layer"], config["embedding_pooling"]) == (1, "mean")
    said = pipeline("audio-classification", model=str(output))(WAVES[:4], batch_size=4)
    assert len(said) == 4 and all({one["label"] for one in row} == set("abc") for row in said)
    assert settings_of(load_encoder(output)).layer == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whisper", "wav2vec2-layer-norm"])
def test_an_encoder_is_tuned_on_pseudo_labels(kind: str, recordings: Path, tmp_path: Path) -> None:
    encoder, output = write_encoder(kind, tmp_path / "encoder"), tmp_path / "tuned"
    flags = ["--model_name_or_path", encoder, "--train_dir", recordings, "--output_dir", output, "--clusters", 3]
    launch(EXAMPLES / "pseudo_labels.py", *map(str, [*flags, "--max_steps", 2, "--embedding_layer", 1, *SHORT]))
    embedder = AudioEmbedder.from_pretrained(str(output), device="cpu")
    assert embedder.encode(WAVES[:3], progress_bar=False).shape == (3, 32)
    assert settings_of(embedder.model).layer == 1 and settings_of(embedder.model).whitening is not None
    assert "AudioEmbedder.from_pretrained" in (output / "README.md").read_text()


def test_a_rate_that_the_encoder_does_not_have_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch) -> None:
    encoder = write_encoder("whisper", tmp_path / "encoder")
    flags = finetune_flags(encoder, tmp_path / "absent", tmp_path / "out", "--drop_path_rate", 0.2)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *flags])
    with pytest.raises(ValueError, match="drop_path_rate=0.2: a classifier on WhisperEncoder has none"):
        runpy.run_path(str(EXAMPLES / "finetune.py"), run_name="__main__")
