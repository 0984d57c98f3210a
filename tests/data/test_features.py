"""Log-mels are computed once, kept on disk as float16, and made anew when a recording or a setting changes."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from uamix_hf import (
    AudioDecodeError,
    AudioInputError,
    AudioMAEFeatureExtractor,
    DataError,
    TruncatedAudioWarning,
    compute_norm_stats,
)
from uamix_hf.data import DataArguments, cached_features, features, load_recordings, prepare

RATE = 16_000
LENGTHS = [4000, 16_000, 8123, 100]  # the last is shorter than a frame


def write_clip(path: Path, samples: int, seed: int) -> np.ndarray:
    """A clip of its own loudness; what is written is returned as it will be read."""
    wave = np.random.default_rng(seed).uniform(-1, 1, samples) * 0.9 / (1 + seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE, subtype="PCM_16")
    return soundfile.read(path, dtype="float32")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, samples in enumerate(LENGTHS):
        write_clip(tmp_path / "sound" / f"{seed}.wav", samples, seed)
    return tmp_path / "sound"


@pytest.fixture
def extractor() -> AudioMAEFeatureExtractor:
    return AudioMAEFeatureExtractor()


def expected_log_mels(folder: Path, extractor: AudioMAEFeatureExtractor) -> list[torch.Tensor]:
    waves = [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.wav"))]
    return extractor.log_mels(waves)


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_audio(*arguments) -> None:
        pytest.fail("a recording was decoded")

    monkeypatch.setattr(features, "load_audio", load_audio)


def test_rows_are_the_log_mels_rounded_to_float16(folder: Path, extractor, tmp_path: Path) -> None:
    result = cached_features(load_recordings(str(folder)), extractor, cache_dir=tmp_path / "cache")
    assert result.skipped == {}
    assert set(result.dataset.column_names) == {"features", "length", "sample_id"}
    assert [int(value) for value in result.dataset["sample_id"]] == [0, 1, 2, 3]
    assert [int(value) for value in result.dataset["length"]] == [23, 98, 49, 1]
    for row, exact in zip(result.dataset, expected_log_mels(folder, extractor), strict=True):
        assert row["features"].dtype == torch.float32  # of float16 values
        assert torch.equal(row["features"], exact.half().float())
        assert (row["features"] - exact).abs().max() <= 2**-7
    assert not torch.equal(exact.half().float(), exact)


def test_log_mels_lie_on_disk_and_are_read_again(folder: Path, extractor, tmp_path: Path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    first = cached_features(load_recordings(str(folder)), extractor, cache_dir=cache).dataset
    files = [Path(entry["filename"]) for entry in first.cache_files]
    assert files and all(file.is_relative_to(cache) for file in files)
    assert sum(file.stat().st_size for file in files) >= 2 * 128 * (23 + 98 + 49 + 1)
    forbid_decoding(monkeypatch)
    second = cached_features(load_recordings(str(folder)), AudioMAEFeatureExtractor(), cache_dir=cache).dataset
    for old, new in zip(first, second, strict=True):
        assert torch.equal(old["features"], new["features"])
    assert second.cache_files == first.cache_files
    with pytest.raises(pytest.fail.Exception, match="decoded"):  # other rows are other log-mels
        cached_features(load_recordings(str(folder), where=["file_name=1.wav"]), extractor, cache_dir=cache)


def test_bytes_are_cached_too(folder: Path, extractor, tmp_path: Path, monkeypatch) -> None:
    def rows() -> list[torch.Tensor]:
        sounds = [{"bytes": path.read_bytes(), "path": "same.wav"} for path in sorted(folder.glob("*.wav"))]
        table = Dataset.from_dict({"audio": sounds, "sample_id": list(range(len(sounds)))})
        return [row["features"] for row in cached_features(table, extractor, cache_dir=tmp_path).dataset]

    before = rows()
    write_clip(folder / "1.wav", LENGTHS[1], seed=77)  # as many bytes, but others
    after = rows()
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [True, False, True, True]
    forbid_decoding(monkeypatch)
    assert torch.equal(rows()[1], after[1])


def test_a_changed_file_or_setting_is_computed_anew(folder: Path, extractor, tmp_path: Path) -> None:
    def rows(extractor: AudioMAEFeatureExtractor) -> list[torch.Tensor]:
        recordings = load_recordings(str(folder))
        return [row["features"] for row in cached_features(recordings, extractor, cache_dir=tmp_path).dataset]

    before = rows(extractor)
    changed = folder / "1.wav"
    status = changed.stat()
    write_clip(changed, LENGTHS[1], seed=77)
    assert changed.stat().st_size == status.st_size  # the time alone tells, even a microsecond
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    after = rows(extractor)
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [True, False, True, True]
    assert torch.equal(after[1], expected_log_mels(folder, extractor)[1].half().float())

    low = AudioMAEFeatureExtractor(low_frequency=300.0)
    assert torch.equal(rows(low)[1], expected_log_mels(folder, low)[1].half().float())


def test_ids_are_those_of_the_whole_table(folder: Path, extractor) -> None:
    recordings = load_recordings(str(folder), where=["file_name=2.wav,0.wav"])
    dataset = cached_features(recordings, extractor).dataset
    assert [(int(row["sample_id"]), int(row["length"])) for row in dataset] == [(0, 23), (2, 49)]


def test_an_unreadable_recording_stops_or_is_left_out(folder: Path, extractor, caplog) -> None:
    (folder / "1.wav").write_text("no sound")
    silent = np.zeros(2000, np.float32)
    silent[7] = np.nan
    soundfile.write(folder / "2.wav", silent, RATE, subtype="FLOAT")
    recordings = load_recordings(str(folder))
    with pytest.raises(AudioDecodeError, match=r"/1\.wav"):
        cached_features(recordings, extractor)
    with caplog.at_level(logging.WARNING):
        result = cached_features(recordings, extractor, on_error="skip")
    assert "2 of 4 recordings" in caplog.text
    assert list(result.skipped) == [str(folder / "1.wav"), str(folder / "2.wav")]
    assert "not readable" in result.skipped[str(folder / "1.wav")] and "NaN" in result.skipped[str(folder / "2.wav")]
    assert [(int(row["sample_id"]), len(row["features"])) for row in result.dataset] == [(0, 23), (3, 1)]
    assert cached_features(recordings, extractor, on_error="skip").skipped == result.skipped
    write_clip(folder / "1.wav", 3000, seed=1)
    write_clip(folder / "2.wav", 3000, seed=1)
    assert len(cached_features(load_recordings(str(folder)), extractor).dataset) == 4  # mended
    with pytest.raises(ValueError, match="'raise' and 'skip'"):
        cached_features(recordings, extractor, on_error="ignore")


def test_what_could_not_be_read_is_tried_again(folder: Path, extractor, tmp_path: Path, monkeypatch, caplog) -> None:
    """As where a decoder is installed later; what could be read is not read twice."""
    unreadable, read = {"0.wav", "2.wav"}, []

    def load_audio(value: dict, rate: int) -> np.ndarray:
        name = Path(value["path"]).name
        read.append(name)
        if name in unreadable:
            raise AudioDecodeError(f"{value['path']}: needs a decoder.")
        return soundfile.read(value["path"], dtype="float32")[0]

    def names_read(on_error: str) -> list[str]:
        read.clear()
        found = cached_features(recordings, extractor, on_error, cache_dir=tmp_path / "cache")
        assert {Path(name).name for name in found.skipped} == unreadable
        assert all("needs a decoder" in reason for reason in found.skipped.values())
        rows = [(int(row["sample_id"]), row["features"]) for row in found.dataset]
        assert [number for number, _ in rows] == [n for n in range(4) if f"{n}.wav" not in unreadable]
        for number, log_mel in rows:
            assert torch.equal(log_mel, expected[number].half().float())
        return list(read)

    monkeypatch.setattr(features, "load_audio", load_audio)
    recordings, expected = load_recordings(str(folder)), expected_log_mels(folder, extractor)
    assert names_read("skip") == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert names_read("skip") == ["0.wav", "2.wav"]
    with pytest.raises(AudioDecodeError, match=r"0\.wav"):
        names_read("raise")
    unreadable.remove("2.wav")
    assert names_read("skip") == ["0.wav", "2.wav"]
    assert names_read("skip") == ["0.wav"]
    assert caplog.messages[-1] == "Left out 1 of 4 recordings that could not be read."
    unreadable.remove("0.wav")
    assert names_read("raise") == ["0.wav"]
    assert names_read("raise") == names_read("skip") == []


def test_what_could_not_be_read_at_first_is_a_table_of_its_own(folder: Path, extractor, tmp_path, monkeypatch) -> None:
    """All unreadable: an error each time, until one is not."""
    recordings, load_audio = load_recordings(str(folder)), features.load_audio

    def fail(value: dict, rate: int) -> None:
        raise AudioDecodeError(f"{value['path']}: needs a decoder.")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(features, "load_audio", fail)
            with pytest.raises(AudioInputError, match="None of the 4 recordings.*needs a decoder"):
                cached_features(recordings, extractor, "skip", tmp_path)
    monkeypatch.setattr(features, "load_audio", load_audio)
    assert len(cached_features(recordings, extractor, "skip", tmp_path).dataset) == 4


def test_what_was_warned_of_is_warned_of_from_the_cache_too(folder: Path, extractor, tmp_path, monkeypatch) -> None:
    whole = (folder / "1.wav").read_bytes()
    (folder / "1.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "2.wav", np.full(4000, 3e4), RATE, subtype="FLOAT")
    said = []
    for _ in range(2):
        with pytest.warns(UserWarning) as caught:
            cached_features(load_recordings(str(folder)), extractor, cache_dir=tmp_path)
        said.append([(item.category, str(item.message)) for item in caught])
        forbid_decoding(monkeypatch)
    assert said[0] == said[1] and [kind for kind, _ in said[0]] == [TruncatedAudioWarning, UserWarning]
    assert "1.wav" in said[0][0][1] and "2.wav" in said[0][1][1]


def test_nothing_readable_is_an_error_even_when_skipping(folder: Path, extractor) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(AudioInputError, match=r"None of the 4 .*/0\.wav"):
        cached_features(load_recordings(str(folder)), extractor, on_error="skip")


def test_statistics_are_those_of_all_frames_together(folder: Path, extractor) -> None:
    recordings = load_recordings(str(folder))
    frames = np.concatenate([mel.numpy() for mel in expected_log_mels(folder, extractor)]).astype(np.float64)
    rounded = frames.astype(np.float16).astype(np.float64)
    waves = [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.wav"))]
    renamed = recordings.rename_column("audio", "sound")
    for statistics in (
        compute_norm_stats(recordings, extractor),
        compute_norm_stats(cached_features(recordings, extractor).dataset, extractor),
        compute_norm_stats(waves, extractor),
        compute_norm_stats([{"array": wave, "sampling_rate": RATE} for wave in waves], extractor),
        compute_norm_stats(renamed, extractor, audio_column="sound"),
    ):
        np.testing.assert_allclose(statistics, (rounded.mean(), rounded.std()), rtol=1e-6)
        np.testing.assert_allclose(statistics, (frames.mean(), frames.std()), atol=1e-3)
    means = [mel.mean().item() for mel in expected_log_mels(folder, extractor)]
    assert abs(np.mean(means) - frames.mean()) > 0.1  # clips do not count alike
    with pytest.raises(DataError, match="no recordings"):
        compute_norm_stats([], extractor)


def test_prepared_labels_and_groups_stay_with_their_recordings(tmp_path: Path, extractor, capsys) -> None:
    rows = ["file_name,label,speaker,fold"]
    for number, (label, speaker) in enumerate([("b", "x"), ("a", "y"), ("b", ""), ("c", "x"), ("a", "y"), ("a", "")]):
        write_clip(tmp_path / "sound" / f"{number}.wav", 1000 * (1 + number), seed=number)
        rows.append(f"{number}.wav,{label},{speaker},{int(number > 0)}")
    (tmp_path / "sound" / "metadata.csv").write_text("\n".join(rows))
    (tmp_path / "sound" / "3.wav").write_text("no sound")
    options = {"where": ["fold=1"], "label_column": "label", "group_column": "speaker", "on_error": "skip"}
    data = prepare(DataArguments(train_dir=str(tmp_path / "sound"), **options), extractor)
    assert [int(value) for value in data.dataset["sample_id"]] == [1, 2, 4, 5]
    assert [data.label_names[int(value)] for value in data.dataset["labels"]] == ["a", "b", "a", "a"]
    first, second, third, fourth = data.groups.tolist()
    assert first == third and len({first, second, fourth}) == 3  # an empty value is a group of its own
    data.report_skipped()
    assert "1 recordings were left out" in (output := capsys.readouterr().out) and "3.wav" in output
    plain = prepare(DataArguments(train_dir=str(tmp_path / "sound"), where=["fold=0"]), extractor)
    assert plain.groups is None and plain.label_names == [] and "labels" not in plain.dataset.column_names
    with pytest.raises(DataError, match="no column 'breed'"):
        prepare(DataArguments(train_dir=str(tmp_path / "sound"), label_column="breed"), extractor)
