"""What libsndfile does not know: m4a, aac and Matroska through torchcodec, where it is installed."""

import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_hf import AudioDecodeError, load_audio, stream_audio
from uamix_hf.audio.errors import TruncatedAudioWarning
from uamix_hf.data import load_recordings

pytestmark = pytest.mark.extra

RATE = 44_100
SECONDS = 30


def tone(seconds: float = SECONDS) -> np.ndarray:
    """A swelling tone on two channels of different level, (samples, channels) float32."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.5 * np.sin(2 * np.pi * 440 * time) * np.linspace(0.1, 1, len(time))
    return np.stack([wave, 0.5 * wave], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoders = pytest.importorskip("torchcodec.encoders", reason="torchcodec is not installed", exc_type=Exception)
    import torch

    folder = tmp_path_factory.mktemp("torchcodec") / "Würfel 音"
    folder.mkdir()
    encoder = encoders.AudioEncoder(torch.from_numpy(tone().T.copy()), sample_rate=RATE)
    for name in ("clip.m4a", "clip.aac"):
        encoder.to_file(folder / name)
    return folder


def ffmpeg(*arguments: object) -> None:
    try:
        subprocess.run(["ffmpeg", "-v", "error", *map(str, arguments)], check=True)
    except FileNotFoundError:
        pytest.skip("there is no ffmpeg command to make a file of this kind")


def read(source: object) -> tuple[np.ndarray, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncatedAudioWarning)
        samples = load_audio(source, RATE)
    return samples, [str(item.message) for item in caught if item.category is TruncatedAudioWarning]


@pytest.mark.parametrize("name", ["clip.m4a", "clip.aac", "clip.webm"])
def test_sound_is_what_was_encoded_from_every_kind_of_source(folder: Path, name: str) -> None:
    path, expected = folder / name, tone().mean(axis=1)
    if name == "clip.webm":
        soundfile.write(folder / "clip.flac", tone(), RATE)
        ffmpeg("-y", "-i", folder / "clip.flac", "-c:a", "libopus", path)
    samples, said = read(path)
    assert said == [] and np.isfinite(samples).all()
    assert abs(len(samples) - len(expected)) <= 3 * 1024  # padding of the first and the last packet
    # The encoder may shift by whole packets; the level over time shows whether it is the same audio.
    level = [np.sqrt(np.square(part).mean()) for part in np.array_split(samples, 10)]
    np.testing.assert_allclose(
        level, [np.sqrt(np.square(part).mean()) for part in np.array_split(expected, 10)], rtol=0.03
    )
    for source in (path.read_bytes(), io.BytesIO(path.read_bytes()), {"bytes": path.read_bytes(), "path": name}):
        np.testing.assert_array_equal(read(source)[0], samples)
    blocks = list(stream_audio(path, RATE, 2.5))
    np.testing.assert_array_equal(np.concatenate(blocks), samples)


def test_a_cut_stream_is_read_to_its_end(folder: Path, tmp_path: Path) -> None:
    data = (folder / "clip.aac").read_bytes()
    path = tmp_path / "cut.aac"
    path.write_bytes(data[: round(0.6 * len(data))])
    samples, said = read(path)
    whole = read(folder / "clip.aac")[0]
    assert 0.5 < len(samples) / len(whole) < 0.7
    np.testing.assert_array_equal(samples[:-2048], whole[: len(samples) - 2048])
    assert len(said) == 1 and str(path) in said[0] and "its end is missing" in said[0]


def test_a_cut_m4a_file_whose_index_is_at_its_end_is_an_error(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.m4a"
    path.write_bytes((folder / "clip.m4a").read_bytes()[:-10_000])
    with pytest.raises(AudioDecodeError, match=r"cut\.m4a.*not readable as MP4"):
        load_audio(path)


def test_a_cut_webm_file_says_how_much_is_missing(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.flac", tone(), RATE)
    path = tmp_path / "cut.webm"
    ffmpeg("-i", tmp_path / "clip.flac", "-c:a", "libopus", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    samples, said = read(path)
    assert 0.3 < len(samples) / (SECONDS * RATE) < 0.7
    assert len(said) == 1 and str(path) in said[0] and "%" in said[0]


def test_m4a_with_its_index_first_says_how_much_is_missing(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "fast.m4a"
    ffmpeg("-i", folder / "clip.m4a", "-c", "copy", "-movflags", "+faststart", path)
    whole, said = read(path)
    assert said == []
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    samples, said = read(path)
    np.testing.assert_array_equal(samples[:-2048], whole[: len(samples) - 2048])
    assert 0.35 < len(samples) / len(whole) < 0.65
    percent = float(re.search(r"([\d.]+) %", said[0])[1])
    assert abs(percent / 100 - (1 - len(samples) / len(whole))) < 0.01


def test_folders_hold_m4a_and_aac_too(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "other.wav", tone(0.1), RATE)
    for name in ("clip.m4a", "clip.aac"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert sorted(load_recordings(str(tmp_path))["file_name"]) == ["clip.aac", "clip.m4a", "other.wav"]


STUBS = {
    "m4a": b"\0\0\0\x20ftypM4A " + bytes(500),
    "aac": b"\xff\xf1\x50\x80" + bytes(500),
    "mka": b"\x1a\x45\xdf\xa3" + bytes(500),
}


@pytest.mark.parametrize("kind", STUBS)
def test_without_torchcodec_the_error_names_it(tmp_path: Path, kind: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(STUBS[kind])
    with pytest.raises(
        AudioDecodeError, match=rf"clip\.{kind}.*needs torchcodec.*pip install 'uamix_hf\[torchcodec\]'"
    ):
        load_audio(path)


@pytest.mark.parametrize("kind", STUBS)
def test_only_the_head_of_such_a_file_is_an_error(folder: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(STUBS[kind])
    with pytest.raises(AudioDecodeError, match=rf"clip\.{kind}"):
        load_audio(path)
