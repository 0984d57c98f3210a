"""Whisper's encoder, real weights, through the trainer and the scripts, on real recordings."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from uamix_hf import AudioEmbedder, UaMixTrainer, UaMixTrainingArguments
from uamix_hf.data import DataArguments
from uamix_hf.embedding import load_encoder
from uamix_hf.embedding.kinds import settings_of
from uamix_hf.evaluation import ProtocolArguments
from uamix_hf.training import EncoderArguments

ROOT = Path(__file__).parents[2]
HEADS = {"projector_hidden_size": 32, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 16, "topk": 1}
FEW = ProtocolArguments(["few_shot"], n_way=3, k_shot=[1], queries=3, episodes=10)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sounds(esc10: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real clips of three classes, twelve of each."""
    folder = tmp_path_factory.mktemp("sounds")
    names, *rows = [line.split(",") for line in (esc10 / "metadata.csv").read_text().splitlines()]
    label, file = names.index("label"), names.index("file_name")
    kept = [
        row for one in sorted({row[label] for row in rows})[:3] for row in [r for r in rows if r[label] == one][:12]
    ]
    lines = ["file_name,label"]
    for row in kept:
        shutil.copy(esc10 / row[file], folder / Path(row[file]).name)
        lines.append(f"{Path(row[file]).name},{row[label]}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def script(name: str, monkeypatch: pytest.MonkeyPatch, *flags: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_whisper_is_tuned_whitened_saved_and_loaded(whisper: Path, sounds: Path, tmp_path: Path) -> None:
    args = UaMixTrainingArguments(
        str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", per_device_train_batch_size=6, max_steps=5,
        head_steps=2, save_strategy="no", freeze_blocks=2, recipe="plastic", warmup_steps=0, **HEADS,
    )  # fmt: skip
    source = EncoderArguments(str(whisper), embedding_layer=3, pooling="mean")
    trainer = UaMixTrainer(source, args, DataArguments(train_dir=[str(sounds)], label_column="label"))
    assert trainer.train().metrics["knn_accuracy"] > 0.5
    settings = json.loads((tmp_path / "embedding_config.json").read_text())
    assert settings == {"layer": 3, "pooling": "mean", "whitening_size": 128}

    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert type(loaded.model) is WhisperEncoder and loaded.embedding_size == 128
    files = sorted(sounds.glob("*.ogg"))
    vectors = loaded.encode(files, progress_bar=False)
    now = AudioEmbedder(trainer.encoder, trainer.feature_extractor).encode(files, progress_bar=False)
    assert np.array_equal(vectors, now)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=0.05)  # whitened over these very clips
    given = load_encoder(whisper)
    for name, value in WhisperEncoder.from_pretrained(tmp_path).named_parameters():
        kept = name.startswith(("conv", "embed_positions", "layers.0.", "layers.1.", "layers.3.", "layer_norm"))
        assert torch.equal(value, given.get_parameter(name)) == kept, name
    found = trainer.evaluate(sounds, protocols=FEW)
    assert all(one.before > 0.4 and one.after > 0.4 for one in found.measurements)


def test_the_scripts_take_whisper(whisper: Path, sounds: Path, tmp_path: Path, monkeypatch) -> None:
    tuned, vectors = tmp_path / "tuned", tmp_path / "vectors.npz"
    heads = [part for name, value in HEADS.items() for part in (f"--{name}", value)]
    script(
        "tune.py", monkeypatch, "--model_name_or_path", whisper, "--train_dir", sounds, "--output_dir", tuned,
        "--embedding_layer", 3, "--use_cpu", "--report_to", "none", "--max_steps", 2, "--head_steps", 1,
        "--per_device_train_batch_size", 6, *heads,
    )  # fmt: skip
    assert settings_of(load_encoder(tuned)).layer == 3
    for model, size in ((whisper, 384), (tuned, 128)):
        script("embed.py", monkeypatch, "--model_name_or_path", model, "--data_dir", sounds, "--output_file", vectors)
        found = np.load(vectors)["vectors"]
        assert found.shape == (36, size) and np.isfinite(found).all()
    script(
        "few_shot.py", monkeypatch, "--model_name_or_path", whisper, tuned, "--model_labels", "base", "tuned",
        "--data_dir", sounds, "--n_way", 3, "--k_shot", 1, "--queries", 5, "--episodes", 10, "--output_dir",
        tmp_path / "results",
    )  # fmt: skip
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["base", "tuned"]
