"""Log-mels that several processes decode are those of one: same bytes, order, errors, warnings and cache."""

import hashlib
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from toy_sounds import EXTRACTOR, tones
from transformers import HfArgumentParser

from uamix_hf import AudioDecodeError, AudioInputError, TruncatedAudioWarning
from uamix_hf.data import DataArguments, PreparedData, cached_features, features, load_recordings, prepare
from uamix_hf.fine_tuning.data import unlabelled_clips
from uamix_hf.fine_tuning.fixmatch import FixMatchArguments

RATE = 16_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine recordings, of which one is unreadable, one truncated and one loud."""
    (tmp_path / "sound").mkdir()
    for number, wave in enumerate(tones(9)[0]):
        wave = np.asarray(wave)[: 3000 + 1500 * number]
        soundfile.write(tmp_path / "sound" / f"{number}.wav", wave, RATE, subtype="PCM_16")
    (tmp_path / "sound" / "2.wav").write_text("no sound")
    whole = (tmp_path / "sound" / "4.wav").read_bytes()
    (tmp_path / "sound" / "4.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "sound" / "7.wav", np.full(4000, 3e4), RATE, subtype="FLOAT")
    return tmp_path / "sound"


def decoded(folder: Path, cache: Path, processes: int):
    """What comes out: files of the cache by their name and hash, columns, skipped recordings, warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cached_features(load_recordings(str(folder)), EXTRACTOR, "skip", cache, processes)
    # Not that of more processes than processors.
    said = [(item.category, str(item.message)) for item in caught if str(folder) in str(item.message)]
    paths = [Path(entry["filename"]) for entry in found.dataset.cache_files]
    files = {str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert isinstance(found.dataset, Dataset) and files
    columns = [found.dataset.data.column(name).to_pylist() for name in ("sample_id", "length", "features")]
    return files, columns, found.skipped, said


def test_bytes_skipped_recordings_and_warnings_are_those_of_one_process(folder: Path, tmp_path: Path) -> None:
    one, two, three = (decoded(folder, tmp_path / f"cache {count}", count) for count in (1, 2, 3))
    assert one == two == three
    _, (samples, *_), skipped, said = one
    assert samples == [0, 1, 3, 4, 5, 6, 7, 8] and [Path(name).name for name in skipped] == ["2.wav"]
    assert TruncatedAudioWarning in [kind for kind, _ in said] and any("7.wav" in text for _, text in said)


def test_other_processes_decode_and_the_cache_is_the_same(folder: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "read").mkdir()
    load_audio = features.load_audio

    def noted(value: dict, rate: int) -> np.ndarray:
        (tmp_path / "read" / f"{Path(value['path']).stem}-{os.getpid()}").touch()
        return load_audio(value, rate)

    def read() -> dict[str, set[str]]:
        """Processes by what they read; forgotten then."""
        names = [path.name.split("-") for path in (tmp_path / "read").iterdir()]
        for path in (tmp_path / "read").iterdir():
            path.unlink()
        return {process: {name for name, one in names if one == process} for _, process in names}

    monkeypatch.setattr(features, "load_audio", noted)
    state = torch.get_rng_state()
    first = decoded(folder, tmp_path / "cache", 2)
    assert torch.equal(torch.get_rng_state(), state)  # a run that decodes draws what one with a cache does
    by_process = read()
    assert len(by_process) == 2 and str(os.getpid()) not in by_process
    assert sorted(sum(map(sorted, by_process.values()), [])) == [str(number) for number in range(9)]
    assert "Decoding: 100%" in (bar := capfd.readouterr().err) and "9/9" in bar
    assert multiprocessing.active_children() == []
    for count in (1, 3):  # what could not be read is tried again, and nothing else is
        assert decoded(folder, tmp_path / "cache", count) == first
        assert list(read().values()) == [{"2"}]


def test_the_number_of_threads_changes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two threads, one in 40,000 values of real clips would be rounded otherwise than by processes of one."""
    seen, load_audio, threads = [], features.load_audio, torch.get_num_threads()

    def noted(*args) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return load_audio(*args)

    monkeypatch.setattr(features, "load_audio", noted)
    try:
        torch.set_num_threads(2)
        one = decoded(folder, tmp_path / "one", 1)
        assert set(seen) == {1} and torch.get_num_threads() == 2
        assert decoded(folder, tmp_path / "two", 2) == one
        with pytest.raises(AudioDecodeError):
            cached_features(load_recordings(str(folder)), EXTRACTOR, cache_dir=tmp_path / "three")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_an_error_is_that_of_one_process_and_none_is_left(folder: Path, tmp_path: Path) -> None:
    recordings = load_recordings(str(folder))
    with pytest.raises(AudioDecodeError, match=r"2\.wav") as one:
        cached_features(recordings, EXTRACTOR, cache_dir=tmp_path)
    with pytest.raises(AudioDecodeError, match=r"2\.wav") as two:
        cached_features(recordings, EXTRACTOR, cache_dir=tmp_path, preprocessing_num_workers=2)
    assert str(one.value) == str(two.value)
    assert multiprocessing.active_children() == []
    for path in folder.iterdir():
        path.write_text("no sound")
    with pytest.raises(AudioInputError, match=r"None of the 9 .*/0\.wav"):
        cached_features(load_recordings(str(folder)), EXTRACTOR, "skip", tmp_path, 2)


@pytest.mark.parametrize("count", [0, -2, 1.5, True])
def test_fewer_than_one_process_is_refused(folder: Path, count) -> None:
    for make in (
        lambda: DataArguments([str(folder)], preprocessing_num_workers=count),
        lambda: cached_features(load_recordings(str(folder)), EXTRACTOR, preprocessing_num_workers=count),
    ):
        with pytest.raises(ValueError, match=f"preprocessing_num_workers={count}: an integer of at least 1"):
            make()


def test_the_flag_reaches_the_processes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line, and for the folder without labels of FixMatch."""
    counts, loader = [], features.ReadRecordings.loader
    monkeypatch.setattr(
        features.ReadRecordings, "loader", lambda self, count: (counts.append(count), loader(self, 1))[1]
    )
    flags = ["--train_dir", str(folder), "--on_error", "skip", "--cache_dir", str(tmp_path / "cache")]
    (args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses([*flags, "--preprocessing_num_workers", "3"])
    data: PreparedData = prepare(args, EXTRACTOR)
    assert counts == [3]
    args.cache_dir = str(tmp_path / "another")
    fixmatch = FixMatchArguments(fixmatch=True, unlabelled_dir=[str(folder)])
    assert len(unlabelled_clips(fixmatch, args, EXTRACTOR, data, data)) == 8 and counts == [3, 3]
