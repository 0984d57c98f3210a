"""Classifier of a few clips: equal to distances from class means, and to transformers' pipeline once saved."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from transformers import pipeline

from uamix_hf import AudioEmbedder, AudioInputError
from uamix_hf.fine_tuning.few_clips import FewClipsClassifier

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "demo"))


def clips(indices: range) -> dict[str, list[np.ndarray]]:
    from sound_events import render_event

    return {label: [render_event(label, 0, index) for index in indices] for label in ("siren", "rain", "bell")}


@pytest.fixture(scope="module", params=["uamix-mae-tiny", "uamix-whisper-tiny.en"])
def classifier(request: pytest.FixtureRequest) -> FewClipsClassifier:
    embedder = AudioEmbedder.from_pretrained(str(ROOT / "model_cards" / request.param), "cpu")
    return FewClipsClassifier(embedder, clips(range(3)))


def test_probabilities_are_those_of_distances_from_the_class_means(classifier: FewClipsClassifier) -> None:
    labelled = {name: classifier.embedder.encode(waves) for name, waves in clips(range(3)).items()}
    means = np.array([vectors.mean(axis=0) for vectors in labelled.values()])
    every = np.concatenate(list(labelled.values()))
    scale = ((every - every.mean(axis=0)) ** 2).sum(axis=1).mean()
    right = 0
    for name, waves in clips(range(5, 7)).items():
        for wave in waves:
            prediction = classifier.predict(wave)
            distances = ((prediction.embedding - means) ** 2).sum(axis=1)
            expected = softmax(-distances / scale)
            assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-3)
            right += max(prediction.probabilities, key=prediction.probabilities.__getitem__) == name
    assert right >= 5


def test_windows_cover_the_clip_and_a_labelled_clip_is_its_own_neighbour(classifier: FewClipsClassifier) -> None:
    wave = clips(range(3))["rain"][1]
    prediction = classifier.predict(wave)
    assert prediction.windows[0].start == 0 and prediction.windows[-1].end == pytest.approx(len(wave) / 16_000)
    assert all(sum(window.probabilities.values()) == pytest.approx(1) for window in prediction.windows)
    first = prediction.neighbours[0]
    assert first.label == "rain" and first.similarity == pytest.approx(1, abs=1e-3)
    assert np.array_equal(first.source, wave)
    assert len(prediction.neighbours) == 9


def test_the_saved_folder_says_the_same_in_a_pipeline(classifier: FewClipsClassifier, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path)
    classify = pipeline("audio-classification", model=str(tmp_path), top_k=3, device="cpu")
    wave = clips(range(5, 6))["siren"][0]
    said = {answer["label"]: answer["score"] for answer in classify(wave)}
    assert said == pytest.approx(classifier.predict(wave).probabilities, abs=1e-4)


@pytest.mark.parametrize(
    "given, says",
    [
        ({}, "0 classes"),
        ({"a": [0]}, "1 classes"),
        ({"a": [np.ones(1600)], " ": [0]}, "' '"),
        ({"a": [np.ones(1600)], "b": []}, "'b' has 0 clips"),
    ],
)
def test_classes_without_names_or_clips_are_refused(classifier: FewClipsClassifier, given: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FewClipsClassifier(classifier.embedder, given)


def test_files_that_cannot_be_read_are_named(classifier: FewClipsClassifier, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    with pytest.raises(AudioInputError, match=r"bad\.wav"):
        classifier.predict(tmp_path / "bad.wav")
    with pytest.raises(AudioInputError, match=r"bad\.wav"):
        FewClipsClassifier(classifier.embedder, {"a": [tmp_path / "bad.wav"], "b": [np.ones(1600, np.float32)]})
