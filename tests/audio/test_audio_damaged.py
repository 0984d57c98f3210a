"""Damage before the end of a file is no missing end: an error that names it, or torchcodec reads it with a warning."""

import io
import struct
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_audio_truncated import RATE, SECONDS, encoded, wave, without_first_frame, without_stated_length

from uamix_hf import AudioDecodeError, DamagedAudioWarning, TruncatedAudioWarning, load_audio, stream_audio
from uamix_hf.audio.damage import last_flac_sample, ogg_state

FILES: dict[str, Callable[[], bytes]] = {
    "FLAC": lambda: encoded("FLAC"),
    "FLAC of unknown length": lambda: without_stated_length(encoded("FLAC")),
    "Vorbis": lambda: encoded("OGG", "VORBIS"),
    "Opus": lambda: encoded("OGG", "OPUS"),
    "MP3": lambda: encoded("MP3"),
    "MP3 of unknown length": lambda: without_first_frame(encoded("MP3")),
}


def hole(data: bytes, place: int) -> bytes:
    return data[:place] + bytes(3000) + data[place + 3000 :]


def noise(data: bytes, place: int) -> bytes:
    return data[:place] + np.random.default_rng(0).bytes(3000) + data[place + 3000 :]


def bit(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def piece_lost(data: bytes, place: int) -> bytes:
    return data[:place] + data[place + 3000 :]


# A bit of MP3 changes the audio of a frame; a lost frame cannot be distinguished from a missing end.
DAMAGE = [(name, damage) for name in FILES for damage in (hole, noise)] + [
    (name, damage) for name in FILES if "MP3" not in name for damage in (bit, piece_lost)
]


def all_that_is_said(source: object) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_audio(source)
    return [item for item in caught if issubclass(item.category, UserWarning)]


def install_torchcodec(monkeypatch: pytest.MonkeyPatch, decoder: Any) -> None:
    """A stand-in: the tests of torchcodec itself are in test_audio_torchcodec.py."""
    package, decoders = types.ModuleType("torchcodec"), types.ModuleType("torchcodec.decoders")
    decoders.AudioDecoder = decoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)


@pytest.fixture
def no_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_damage_in_the_middle_is_an_error(tmp_path: Path, no_torchcodec, name: str, damage, part: float) -> None:
    data = FILES[name]()
    assert all_that_is_said(data) == []
    path = tmp_path / "Würfel 音.sound"
    path.write_bytes(damage(data, round(part * len(data))))
    for read in (load_audio, lambda source: list(stream_audio(source, block_seconds=1.0))):
        for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
            said = "Würfel 音.*" if source is path else ""
            with pytest.raises(AudioDecodeError, match=said + "damaged before its end.*torchcodec"):
                read(source)


@pytest.mark.parametrize("name", FILES)
def test_torchcodec_reads_it_where_it_is_installed(tmp_path: Path, monkeypatch, name: str) -> None:
    """What libsndfile decodes up to the damage is not decoded twice, nor is a sample lost."""
    opened = []
    lead = load_audio(FILES[name]())

    class Decoder:
        def __init__(self, file: Any) -> None:
            opened.append(file.tell())

        def get_all_samples(self) -> SimpleNamespace:
            return SimpleNamespace(data=torch.from_numpy(lead)[None], sample_rate=RATE)

    install_torchcodec(monkeypatch, Decoder)
    path = tmp_path / "clip.sound"
    path.write_bytes(hole(FILES[name](), round(0.6 * len(FILES[name]()))))
    with pytest.warns(DamagedAudioWarning, match=r"clip\.sound: damaged before.*reads 12\.?\d* s") as caught:
        samples = load_audio(path)
    assert len(caught) == 1 and opened == [0] and len(samples) == len(lead)
    # Around the damage, MP3's frames lean on those before.
    np.testing.assert_allclose(samples, lead, atol=0.5 if "MP3" in name else 1e-6)
    if "MP3" not in name:
        np.testing.assert_array_equal(samples, lead)
    with pytest.warns(DamagedAudioWarning):
        np.testing.assert_array_equal(np.concatenate(list(stream_audio(path, block_seconds=1.0))), samples)


def test_torchcodec_that_gets_no_further_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decoder:
        def __init__(self, file: Any) -> None:
            pass

        def get_all_samples(self) -> SimpleNamespace:
            if message:
                raise RuntimeError(f"a place in its source, {message}")
            return SimpleNamespace(data=torch.zeros(1, seconds * RATE), sample_rate=RATE)

    install_torchcodec(monkeypatch, Decoder)
    data = hole(encoded("FLAC"), 90_000)
    message = "Invalid data"
    with pytest.raises(AudioDecodeError, match=r"bytes of audio: damaged before its end \(Invalid data\)"):
        load_audio(data)
    message = ""
    for seconds in (0, 1):
        with pytest.raises(AudioDecodeError, match=rf"torchcodec reads {seconds} s of 12 s only"):
            load_audio(data)
    seconds = 5
    with pytest.warns(DamagedAudioWarning, match="torchcodec reads 5 s of 12 s"):
        assert len(load_audio(data)) == 5 * RATE


@pytest.mark.parametrize("samples", [16_000, 30_000])
@pytest.mark.parametrize("part", [0.1, 0.3, 0.4, 0.5, 0.6, 0.7])
def test_damage_shows_in_short_clips_too(no_torchcodec, samples: int, part: float) -> None:
    """All of such a file has been read where the decoder gives up, and frames behind the damage decoded."""
    file = io.BytesIO()
    soundfile.write(file, wave()[:samples], RATE, format="FLAC")
    data = file.getvalue()
    with pytest.raises(AudioDecodeError, match="damaged before its end"):
        load_audio(bit(data, round(part * len(data))))
    with pytest.warns(TruncatedAudioWarning, match="%"):
        load_audio(data[: round(0.7 * len(data))])


def test_an_end_of_zeros_is_missing() -> None:
    """As of a download whose file had its size from the start."""
    for name in ("FLAC", "FLAC of unknown length", "MP3 of unknown length"):
        data = FILES[name]()
        (item,) = all_that_is_said(data[: len(data) // 2] + bytes(len(data) // 2))
        assert item.category is TruncatedAudioWarning, name


@pytest.mark.parametrize("name", FILES)
def test_what_follows_the_end_is_no_damage(name: str) -> None:
    tags = b"TAG" + bytes(125)
    said = [str(item.message) for item in all_that_is_said(FILES[name]() + tags)]
    assert all("damaged" not in text for text in said) and (said == [] or name == "FLAC of unknown length")


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "AIFF"])
def test_a_file_that_is_hardly_there_is_an_error(container: str) -> None:
    """tests/README.md: nine tenths may be missing."""
    data = encoded(container)
    with pytest.warns(TruncatedAudioWarning, match="% of its stated length"):
        assert 0.1 < len(load_audio(data[: round(0.17 * len(data))])) / (SECONDS * RATE) < 0.25
    with pytest.raises(AudioDecodeError, match=r"9\d(\.\d+)? % of its stated length is missing, more than 90 %"):
        load_audio(data[: round(0.06 * len(data))])


def test_the_last_frame_of_flac_tells_how_far_it_reaches() -> None:
    for samples, rate in ((50_000, 16_000), (123_456, 44_100), (2_000_000, 48_000)):  # numbers of one to three bytes
        file = io.BytesIO()
        soundfile.write(file, np.random.default_rng(0).integers(-99, 99, (samples, 2), np.int16), rate, format="FLAC")
        block = int.from_bytes(file.getvalue()[8:10], "big")
        assert last_flac_sample(file) == (samples - 1) // block * block
    assert last_flac_sample(io.BytesIO(file.getvalue()[:60])) == 0
    assert last_flac_sample(io.BytesIO(b"ID3\4\0\0\0\0\0\5hello" + file.getvalue())) == (samples - 1) // block * block


def test_the_pages_of_ogg_tell_damage_from_a_missing_end() -> None:
    for name in ("Vorbis", "Opus"):
        data = FILES[name]()
        assert ogg_state(io.BytesIO(data)) == ogg_state(io.BytesIO(data + b"TAG" + bytes(125))) == "whole"
        assert ogg_state(io.BytesIO(data + data)) == "whole"  # one stream behind the other
        pages = [place for place in range(len(data)) if data.startswith(b"OggS", place)]
        for place in (pages[-1], pages[-1] + 3, pages[-1] + 27, pages[-1] + 60, len(data) - 1):
            assert ogg_state(io.BytesIO(data[:place])) == "cut"
        for place in np.random.default_rng(0).integers(pages[0], pages[-1], 50).tolist():
            assert ogg_state(io.BytesIO(bit(data, place))) == "damaged"


def boxes(present: int) -> bytes:
    """A made-up MP4 file with 8000 bytes of audio, of which so many are there."""
    return b"\0\0\0\x10ftypM4A " + bytes(4) + struct.pack(">I4s", 8008, b"mdat") + bytes(present)


def adts(frames: int) -> bytes:
    return (b"\xff\xf1\x50\x80\x19\x1f\xfc" + bytes(193)) * frames


@pytest.mark.parametrize(
    ("data", "damaged"),
    [(boxes(8000), True), (boxes(5000), False), (adts(100), True), (adts(50) + bytes(100), False)],
    ids=["MP4, whole", "MP4, cut", "AAC, whole", "AAC, cut"],
)
def test_damage_where_torchcodec_gives_up(monkeypatch: pytest.MonkeyPatch, data: bytes, damaged: bool) -> None:
    """It fails after 50 packets of 1024 samples, which of the whole file are half."""

    class Decoder:
        def __init__(self, file: Any) -> None:
            self.metadata = SimpleNamespace(sample_rate=RATE, duration_seconds=100 * 1024 / RATE)

        def get_samples_played_in_range(self, start: float, stop: float) -> SimpleNamespace:
            if round(stop * RATE) > 50 * 1024:
                raise RuntimeError("a place in its source, Invalid data")
            return SimpleNamespace(data=torch.full((1, round((stop - start) * RATE)), 0.5))

    install_torchcodec(monkeypatch, Decoder)
    if damaged:
        with pytest.raises(AudioDecodeError, match=r"bytes of audio: damaged after 3\.2 s \(Invalid data\)"):
            load_audio(data)
        return
    with pytest.warns(TruncatedAudioWarning, match="missing"):
        assert len(load_audio(data)) == 50 * 1024
