"""A whole fine-tuning run from Python: data, training, a folder that loads, results and card."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from all_encoders import short_encoder
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, tones
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, set_seed

from uamix_hf import AudioMAEModel
from uamix_hf.data import DataArguments, HeldOutArguments
from uamix_hf.embedding import EmbeddingSettings
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FixMatchArguments,
    FixMatchTrainer,
    LabelArguments,
    fine_tuning_data,
    fine_tuning_trainer,
    make_classifier,
    predict,
    save_results,
)
from uamix_hf.training import RunCheckpointError

WAVES, LABELS = tones(36, seed=1)
NAMES = np.array(["low", "mid", "high"])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    lines = ["file_name,pitch,fold"]
    for number, (wave, label) in enumerate(zip(WAVES, LABELS, strict=True)):
        soundfile.write(folder / f"{number:02}.wav", wave, 16_000, subtype="FLOAT")
        lines.append(f"{number:02}.wav,{NAMES[label]},{number % 4}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def arguments(folder: Path, **more) -> FineTuningArguments:
    fixed = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "eval_strategy": "no",
             "max_steps": 2, "per_device_train_batch_size": 9, **PLAIN}  # fmt: skip
    return FineTuningArguments(str(folder), **{**fixed, **more})


def encoder() -> AudioMAEModel:
    set_seed(0)
    return AudioMAEModel(CONFIG)


def test_a_run_ends_with_a_folder_that_loads_and_says_what_was_measured(recordings: Path, tmp_path: Path) -> None:
    source, args = DataArguments([str(recordings)], label_column="pitch"), arguments(tmp_path / "out", push_to_hub=True)
    data = fine_tuning_data(source, EXTRACTOR, args, None, HeldOutArguments(["fold=2"]), ["fold=3"])
    model = make_classifier(encoder(), 3, **data.targets.model_settings(), **args.model_settings(encoder()))
    trainer = fine_tuning_trainer(model, args, data, EXTRACTOR)
    trainer.train()
    trainer.save_model()
    results = save_results(trainer, data, "a-base")

    assert not trainer.args.push_to_hub and trainer.repo_id == "out"  # the run's folder is never uploaded as it is
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["clips"] == {"train": 18, "test": 9, "eval": 9} and results["model"] == "a-base"
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "out").eval()
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert extractor.truncation and not EXTRACTOR.truncation
    for name, fold in (("test", 3), ("eval", 2)):
        part = data.held_out[name]
        predicted = predict(loaded, extractor, part, np.arange(9))
        truth = np.array([results["label_names"].index(NAMES[label]) for label in LABELS[fold::4]])
        assert results["results"][f"{name}_accuracy"] == pytest.approx((predicted == truth).mean())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "a-base" in card and "| max_steps | 2 |" in card and recordings.name in card
    assert (tmp_path / "out" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob("*.bin"))  # no pickle


def test_clips_without_used_labels_make_it_fixmatch(recordings: Path, tmp_path: Path) -> None:
    source, args = DataArguments([str(recordings)], label_column="pitch"), arguments(tmp_path)
    given = FixMatchArguments(fixmatch=True, unlabelled_ratio=2)
    data = fine_tuning_data(source, EXTRACTOR, args, LabelArguments(k_shot=3), fixmatch=given)
    model = make_classifier(encoder(), 3, **data.targets.model_settings(), **args.model_settings(encoder()))
    trainer = fine_tuning_trainer(model, args, data, EXTRACTOR)
    assert isinstance(trainer, FixMatchTrainer) and len(trainer.unlabelled) == 27
    with pytest.raises(ValueError, match="unlabelled_ratio: without effect"):
        fine_tuning_data(source, EXTRACTOR, args, fixmatch=FixMatchArguments(unlabelled_ratio=2))


def test_the_checkpoint_to_resume_from_is_read_from_the_arguments(recordings: Path, tmp_path: Path) -> None:
    args = arguments(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    data = fine_tuning_data(DataArguments([str(recordings)], label_column="pitch"), EXTRACTOR, args)
    model = make_classifier(encoder(), 3, **data.targets.model_settings(), **args.model_settings(encoder()))
    trainer = fine_tuning_trainer(model, args, data, EXTRACTOR)
    with pytest.raises(RunCheckpointError, match="cannot be resumed from: no model.safetensors"):
        trainer.train()
    trainer.train(resume_from_checkpoint=False)
    assert trainer.state.global_step == 2


def test_a_run_of_another_encoder_names_it_on_its_card(recordings: Path, tmp_path: Path) -> None:
    other, extractor = short_encoder("whisper")
    other.embedding_settings = EmbeddingSettings(2, "mean")
    args = FineTuningArguments(
        str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no",
        eval_strategy="no", max_steps=1, per_device_train_batch_size=9,
    )  # fmt: skip
    data = fine_tuning_data(DataArguments([str(recordings)], label_column="pitch"), extractor, args)
    model = make_classifier(other, 3, extractor, **data.targets.model_settings(), **args.model_settings(other))
    trainer = fine_tuning_trainer(model, args, data, extractor)
    trainer.train()
    trainer.save_model()
    settings = save_results(trainer, data, "a-base")["settings"]
    assert (settings["encoder"], settings["embedding_layer"], settings["pooling"]) == ("WhisperEncoder", 2, "mean")
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "- whisper\n", "`WhisperEncoder`, with a linear layer on its embedding (layer 2, pooling:\nmean)",
        "import uamix_hf  # which", 'pipeline("audio-classification", model=".")\n', "must be installed",
        "| embedding_layer | 2 |",
    ):  # fmt: skip
        assert part in card, card
    assert "trust_remote_code" not in card and "masked" not in card and "drop_path_rate" not in card
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "out").truncation
