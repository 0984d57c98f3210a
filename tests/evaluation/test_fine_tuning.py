"""Fine-tuning on few labels: the draws of the frozen protocols, an untouched encoder for each, every test clip."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from all_encoders import short_encoder, slow_but
from datasets import Dataset
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, log_mels, tones
from transformers import set_seed

from uamix_hf import AudioMAEModel
from uamix_hf.data import DataError, load_recordings
from uamix_hf.data.labels import draw_labelled
from uamix_hf.evaluation import SplitError, low_shot_accuracy, make_splits
from uamix_hf.evaluation.fine_tuning import fine_tune_low_shot
from uamix_hf.fine_tuning import FineTuningArguments, fine_tune, predict
from uamix_hf.metrics.checks import EvaluationError

WAVES, LABELS = tones(48, seed=3)
SPLITS = make_splits(LABELS, n_splits=2)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    set_seed(0)
    AudioMAEModel(CONFIG).save_pretrained(folder)
    EXTRACTOR.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("sounds")
    for number, wave in enumerate(WAVES):
        soundfile.write(folder / f"{number:02}.wav", wave, 16_000, subtype="FLOAT")
    return load_recordings(folder)


@pytest.fixture
def measure(model_path, recordings):
    """`measure(k=2, seeds=(0,), splits=SPLITS, labels=LABELS, **arguments)`: scores."""

    def measure(k=2, seeds=(0,), splits=SPLITS, labels=LABELS, **arguments):
        fixed = {"use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", "max_steps": 4,
                 "learning_rate": 1e-3, "per_device_train_batch_size": 12}  # fmt: skip
        args = FineTuningArguments(**{**fixed, **arguments})
        return fine_tune_low_shot(model_path, recordings, labels, splits, k, seeds, args, progress_bar=False)

    return measure


def test_toy_sounds_are_learnt_from_a_few(measure):
    assert measure(k=6, max_steps=80, **PLAIN).mean > 0.9


def test_scores_are_those_of_each_draw_done_by_hand(measure, tmp_path):
    """Which also says that each draw starts from the saved encoder, not from the last draw's."""
    scores = measure(seeds=(4, 7))
    set_seed(0)
    encoder, data = AudioMAEModel(CONFIG), log_mels(WAVES)
    draw, expected = 0, []
    for seed in (4, 7):
        for train, test in SPLITS:
            args = FineTuningArguments(
                str(tmp_path), use_cpu=True, disable_tqdm=True, logging_strategy="no", max_steps=4, learning_rate=1e-3,
                per_device_train_batch_size=12, seed=seed, save_strategy="no",
            )  # fmt: skip
            rows = draw_labelled(LABELS, train, 2, seed)
            predicted = predict(fine_tune(encoder, EXTRACTOR, data, rows, LABELS, 3, args), EXTRACTOR, data, test)
            expected += [(draw, label, (predicted[LABELS[test] == label] == label).mean()) for label in range(3)]
            draw += 1
    assert list(zip(scores.trials, scores.classes, scores.values, strict=True)) == expected
    assert len(np.unique(scores.values)) > 3  # the training is so short that draws differ


def test_cells_are_those_of_low_shot_accuracy(measure):
    rng = np.random.default_rng(0)
    frozen = low_shot_accuracy(rng.normal(size=(48, 5)), LABELS, SPLITS, 3, (0, 1))
    tuned = measure(k=3, seeds=(0, 1), max_steps=1)
    assert np.array_equal(frozen.trials, tuned.trials) and np.array_equal(frozen.classes, tuned.classes)


def test_the_default_run_leaves_nothing_on_the_disk_or_on_the_screen(
    model_path, recordings, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    scores = fine_tune_low_shot(model_path, recordings, LABELS, SPLITS[:1], 1, (0,), progress_bar=False)
    assert 0 <= scores.mean <= 1
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""


def test_what_cannot_be_measured_is_refused(measure):
    with pytest.raises(EvaluationError, match="one class a clip"):
        measure(labels=np.eye(3, dtype=bool)[LABELS])
    with pytest.raises(DataError, match="Class 0 has 8 clips among the training rows, k=9"):
        measure(k=9)
    with pytest.raises(SplitError, match="0 seeds"):
        measure(seeds=())
    with pytest.raises(SplitError, match="0 splits"):
        measure(splits=[])
    with pytest.raises(SplitError, match="training and test rows at once"):
        measure(splits=[(np.arange(40), np.arange(39, 48))])
    with pytest.raises(ValueError, match="48 clips"):
        measure(labels=np.concatenate([LABELS, LABELS]))


@pytest.mark.parametrize("kind", slow_but(["wav2vec2"], ["whisper", "wav2vec2", "beats"]))
def test_encoders_of_other_kinds_are_fine_tuned(kind, recordings):
    args = FineTuningArguments(
        use_cpu=True, disable_tqdm=True, logging_strategy="no", max_steps=1, per_device_train_batch_size=6
    )
    encoder = short_encoder(kind)
    before = {name: value.clone() for name, value in encoder[0].state_dict().items()}
    scores = fine_tune_low_shot(encoder, recordings, LABELS, SPLITS[:1], 2, (0,), args, progress_bar=False)
    assert len(scores.values) == 3 and 0 <= scores.mean <= 1
    assert all(torch.equal(value, before[name]) for name, value in encoder[0].state_dict().items())
