"""The procedural sound events: reproducible, well-formed on disk, and neither trivial nor hopeless to tell apart."""

import csv
import json
import sys
from collections import Counter

import numpy as np
import pytest
import sound_events
import soundfile
from scipy import signal
from sklearn.neighbors import NearestCentroid
from sound_events import CLASSES, render_event, write_corpus

RATE = 16_000


def read_metadata(folder):
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), clips_per_class=5, seed=3)


@pytest.fixture(scope="module")
def clips():
    """Twelve clips of every class, as (class, clip) pairs."""
    return [(label, render_event(label, 0, index)) for label in CLASSES for index in range(12)]


def few_shot_accuracy(features, labels, episodes=200, ways=5, shots=5):
    """Mean accuracy of nearest-centroid classification over random episodes; the queries are all clips left."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(episodes):
        support, query = [], []
        for label in rng.choice(np.unique(labels), ways, replace=False):
            members = rng.permutation(np.flatnonzero(labels == label))
            support.extend(members[:shots])
            query.extend(members[shots:])
        scores.append(NearestCentroid().fit(features[support], labels[support]).score(features[query], labels[query]))
    return np.mean(scores)


def average_log_spectrum(clip):
    """Level in dB, averaged over time, of 40 bands equally wide on the mel scale between 50 Hz and 8 kHz."""
    frequencies, _, spectrum = signal.stft(clip, RATE, nperseg=512, noverlap=256)
    mel = 2595 * np.log10(1 + frequencies / 700)
    edges = np.linspace(*2595 * np.log10(1 + np.array([50, RATE / 2]) / 700), 42)
    bands = np.maximum(1 - np.abs(mel - edges[1:-1, None]) / (edges[1] - edges[0]), 0)
    return np.mean(10 * np.log10(bands @ np.abs(spectrum) ** 2 + 1e-8), axis=1)


def test_classes_are_sorted_and_many():
    assert list(CLASSES) == sorted(set(CLASSES))
    assert len(CLASSES) >= 15


@pytest.mark.parametrize("label", CLASSES)
def test_clips_are_bit_identical_and_differ_by_index_and_seed(label):
    clip = render_event(label, 1, 2)
    assert np.array_equal(clip, render_event(label, 1, 2))
    assert not np.array_equal(clip, render_event(label, 1, 3))
    assert not np.array_equal(clip, render_event(label, 2, 2))


def test_clips_are_well_formed(clips):
    for label, clip in clips:
        assert clip.dtype == np.float32 and clip.ndim == 1, label
        assert 1.5 <= len(clip) / RATE <= 4.0, label
        assert np.isfinite(clip).all(), label
        assert -28.1 < 20 * np.log10(np.abs(clip).max()) < -2.9, label
        assert 20 * np.log10(np.sqrt(np.mean(clip**2))) > -65, label


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_other_sampling_rates(rate):
    for label in CLASSES:
        clip = render_event(label, 0, 0, rate)
        assert np.isfinite(clip).all(), label
        assert 1.5 <= len(clip) / rate <= 4.0, label


def test_unknown_label_names_the_classes():
    with pytest.raises(ValueError, match="kazoo") as error:
        render_event("kazoo", 0, 0)
    assert all(label in str(error.value) for label in CLASSES)


def test_files_hold_the_rendered_clips(corpus):
    rows = read_metadata(corpus)
    assert {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.flac")} == {r["file_name"] for r in rows}
    for row in rows:
        path = corpus / row["file_name"]
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", RATE, 1)
        label, index = path.stem.rsplit("-", 1)
        assert label == row["label"] == path.parent.name
        rendered = render_event(label, 3, int(index))
        stored, _ = soundfile.read(path, dtype="float32")
        assert float(row["duration_s"]) == pytest.approx(len(rendered) / RATE)
        np.testing.assert_allclose(stored, rendered, rtol=0, atol=1.5 / 2**15)


def test_metadata_is_balanced(corpus):
    rows = read_metadata(corpus)
    assert list(rows[0]) == ["file_name", "label", "fold", "duration_s"]
    assert Counter(row["label"] for row in rows) == dict.fromkeys(CLASSES, 5)
    assert Counter((row["label"], row["fold"]) for row in rows) == {(c, f): 1 for c in CLASSES for f in "12345"}


def test_a_complete_corpus_is_left_as_it_is(corpus):
    before = modification_times(corpus)
    assert write_corpus(corpus, clips_per_class=5, seed=3) == corpus
    assert modification_times(corpus) == before


@pytest.fixture
def two_classes(monkeypatch):
    monkeypatch.setattr(sound_events, "CLASSES", ("bird_chirps", "clock_ticks"))


def test_more_clips_keep_the_earlier_ones_and_fewer_leave_no_stale_files(two_classes, tmp_path):
    first = tmp_path / "audio" / "clock_ticks" / "clock_ticks-000.flac"
    write_corpus(tmp_path, clips_per_class=1)
    content = first.read_bytes()
    write_corpus(tmp_path, clips_per_class=3)
    assert first.read_bytes() == content
    assert len(list(tmp_path.rglob("*.flac"))) == len(read_metadata(tmp_path)) == 6
    write_corpus(tmp_path, clips_per_class=2)
    assert len(list(tmp_path.rglob("*.flac"))) == len(read_metadata(tmp_path)) == 4
    assert json.loads((tmp_path / "corpus.json").read_text())["clips_per_class"] == 2


def test_an_interrupted_corpus_is_not_taken_for_complete(two_classes, tmp_path, monkeypatch):
    def interrupted(label, seed, index, sampling_rate):
        if label == "clock_ticks":
            raise KeyboardInterrupt
        return render_event(label, seed, index, sampling_rate)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sound_events, "render_event", interrupted)
        write_corpus(tmp_path, clips_per_class=1)
    assert not (tmp_path / "metadata.csv").exists()
    write_corpus(tmp_path, clips_per_class=1)
    assert len(read_metadata(tmp_path)) == 2


def test_no_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="clips_per_class"):
        write_corpus(tmp_path, clips_per_class=0)


def test_command_line_reports_what_it_wrote(two_classes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sound_events.py", str(tmp_path), "--clips_per_class", "2", "--seed", "7"])
    sound_events.main()
    assert capsys.readouterr().out.startswith(f"{tmp_path}: 4 clips of 2 classes")


def test_spectra_tell_the_classes_apart_only_in_part(clips):
    labels = np.array([label for label, _ in clips])
    spectra = np.array([average_log_spectrum(clip) for _, clip in clips])
    assert 0.4 < few_shot_accuracy(spectra, labels) < 0.9
    shapes = spectra - spectra.mean(axis=1, keepdims=True)
    assert 0.4 < few_shot_accuracy(shapes, labels) < 0.9


def test_level_and_length_do_not_tell_the_classes_apart(clips):
    labels = np.array([label for label, _ in clips])
    levels = np.array([10 * np.log10(np.mean(clip**2)) for _, clip in clips])
    lengths = np.array([len(clip) / RATE for _, clip in clips])
    standardised = [(x - x.mean()) / x.std() for x in (levels, lengths)]
    for features in ([levels], standardised):
        assert few_shot_accuracy(np.stack(features, axis=1), labels) < 0.4  # chance is 0.2
