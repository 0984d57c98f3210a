"""UaMixTrainer.evaluate gives trackers a map of the embeddings, and none where nothing is reported to."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_sounds import CONFIG, EXTRACTOR, write_tones

from uamix_hf import AudioMAEModel, UaMixTrainer, UaMixTrainingArguments
from uamix_hf.evaluation import ProtocolArguments, trackers
from uamix_hf.metrics.plots import DPI, WIDTH

FEW = ProtocolArguments(["few_shot"], n_way=3, k_shot=[1], queries=2, episodes=3)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = write_tones(tmp_path / "sounds", 18)
    rows = [f"{number:02d}.wav,{number % 3}" for number in range(18)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return folder


def trained(sounds: Path, folder: Path, report_to: str) -> UaMixTrainer:
    args = UaMixTrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, report_to=report_to, per_device_train_batch_size=8, max_steps=3,
        head_steps=1, logging_steps=1, save_strategy="no", recipe="plastic", projector_hidden_size=24,
        projection_size=16, predictor_hidden_size=32, queue_size=16, topk=2, whiten=False,
    )  # fmt: skip
    trainer = UaMixTrainer(AudioMAEModel(CONFIG), args, str(sounds), EXTRACTOR)
    trainer.train()
    return trainer


def test_tensorboard_has_the_map_of_the_evaluation(sounds: Path, tmp_path: Path) -> None:
    trainer = trained(sounds, tmp_path / "run", "tensorboard")
    evaluation = trainer.evaluate(str(sounds), protocols=FEW)
    assert [model["name"] for model in evaluation.results["models"]] == ["before", "after"]
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    board = [EventAccumulator(str(file)).Reload() for file in folder.glob("events*")]
    scalars = [one.Scalars("train/loss_mixed") for one in board if "train/loss_mixed" in one.Tags()["scalars"]]
    assert [value.step for value in scalars[0]] == [1, 2, 3]
    images = [image for one in board if "embeddings" in one.Tags()["images"] for image in one.Images("embeddings")]
    assert [(image.step, image.width) for image in images] == [(3, round(WIDTH * DPI))]


def test_nothing_is_drawn_for_nobody(sounds: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trackers, "log_image", lambda *given: pytest.fail("there is no tracker"))
    trainer = trained(sounds, tmp_path / "run", "none")
    trainer.evaluate(str(sounds), protocols=FEW)
    assert not list((tmp_path / "run").rglob("*.png"))


def test_without_matplotlib_a_warning_says_what_is_missing(sounds: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    trainer = trained(sounds, tmp_path / "run", "tensorboard")
    trainer.evaluate(str(sounds), protocols=FEW)
    assert "it needs matplotlib" in caplog.text
