"""Recordings that break off: what there is of them is read, and a warning names the file and how much is missing."""

import io
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_hf import AudioDecodeError, load_audio, stream_audio
from uamix_hf.audio.errors import TruncatedAudioWarning

RATE = 16_000
SECONDS = 12


def wave() -> np.ndarray:
    """Noise that swells: nothing in it repeats, so that a wrong place shows. (samples,) float32."""
    noise = np.random.default_rng(0).standard_normal(SECONDS * RATE + 20)
    smooth = np.convolve(noise, np.hanning(21) / 10, "valid")  # low enough for the lossy codecs
    return (0.2 * np.linspace(0.2, 1, len(smooth)) * smooth).astype(np.float32)


def encoded(container: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave(), RATE, format=container, subtype=subtype)
    return file.getvalue()


def with_header_size(data: bytes, size: int) -> bytes:
    place = data.index(b"data") + 4
    return data[:4] + struct.pack("<I", size) + data[8:place] + struct.pack("<I", size) + data[place + 4 :]


def without_stated_length(flac: bytes) -> bytes:
    """STREAMINFO with 0 for its 36 bits of samples, as an encoder writes that cannot go back."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def without_first_frame(mp3: bytes) -> bytes:
    """The frame that states the number of frames left out."""
    return mp3[mp3.index(mp3[:2], 4) :]


def read(source: object) -> tuple[np.ndarray, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = load_audio(source)
    said = [item for item in caught if issubclass(item.category, UserWarning)]
    assert all(item.category is TruncatedAudioWarning for item in said)
    return samples, [str(item.message) for item in said]


# Container, subtype, and by how much samples and the share of them may differ from those of the bytes that were cut.
CUT = [
    ("WAV", "PCM_U8", 0.01, 0.001),
    ("WAV", "PCM_16", 1e-4, 0.001),
    ("WAV", "PCM_24", 1e-6, 0.001),
    ("WAV", "FLOAT", 0, 0.001),
    ("WAV", "ULAW", 0.02, 0.001),
    ("WAVEX", "PCM_16", 1e-4, 0.001),
    ("RF64", "PCM_16", 1e-4, 0.001),
    ("W64", "PCM_16", 1e-4, 0.001),
    ("AIFF", "PCM_16", 1e-4, 0.001),
    ("AU", "PCM_16", 1e-4, 0.001),
    ("FLAC", "PCM_16", 1e-4, 0.05),
    ("MP3", "MPEG_LAYER_III", 0.2, 0.1),
]


@pytest.mark.parametrize(("container", "subtype", "tolerance", "share_tolerance"), CUT)
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.25])
def test_a_cut_file_gives_what_there_is_and_says_how_much_is_missing(
    tmp_path: Path, container: str, subtype: str, tolerance: float, share_tolerance: float, kept: float
) -> None:
    data, full = encoded(container, subtype), wave()
    path = tmp_path / f"Würfel 音.{container.lower()}"
    path.write_bytes(data)
    samples, said = read(path)
    assert len(samples) == len(full) and said == []
    path.write_bytes(data[: round(kept * len(data))])
    samples, said = read(path)
    assert abs(len(samples) / len(full) - kept) < share_tolerance + 0.002  # of the header
    inside = len(samples) - 2000 if container == "MP3" else len(samples)  # a frame that leans on the next
    assert np.abs(samples[:inside] - full[:inside]).max() <= tolerance
    (text,) = said
    assert str(path) in text
    percent = float(re.search(r"([\d.e-]+) %", text)[1])
    assert abs(percent / 100 - (1 - len(samples) / len(full))) < 0.002


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "AIFF", "OGG"])
def test_every_kind_of_source_is_warned_of_once(tmp_path: Path, container: str) -> None:
    data = encoded(container)
    path = tmp_path / "cut.sound"
    path.write_bytes(data[: len(data) // 2])
    expected, (text,) = read(path)
    for source, name in [
        ({"bytes": path.read_bytes(), "path": "elsewhere.sound"}, "elsewhere.sound"),
        ({"bytes": None, "path": str(path)}, str(path)),
        (path.read_bytes(), f"{len(data) // 2} bytes of audio"),
        (io.BytesIO(path.read_bytes()), "a BytesIO"),
    ]:
        samples, said = read(source)
        np.testing.assert_array_equal(samples, expected)
        assert said == [text.replace(str(path), name)]
    with path.open("rb") as file:
        assert read(file)[1] == [text]
    with pytest.warns(TruncatedAudioWarning, match=re.escape(str(path))) as caught:
        blocks = list(stream_audio(path, block_seconds=1.0))
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert len(caught) == 1


def test_a_cut_ogg_file_lacks_its_end_and_nothing_more_is_known() -> None:
    for subtype in ("VORBIS", "OPUS"):
        data, full = encoded("OGG", subtype), wave()
        samples, said = read(data)
        assert len(samples) == len(full) and said == []
        samples, said = read(data[: 2 * len(data) // 3])
        assert 0.3 * len(full) < len(samples) < 0.7 * len(full)
        assert len(said) == 1 and "its end is missing" in said[0] and "%" not in said[0]
        pages = [found.start() for found in re.finditer(b"OggS", data)]
        assert len(pages) > 4
        assert len(read(data[: pages[-1]])[1]) == 1  # cut where a page ends: only the flag tells


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_length_that_the_header_leaves_open_is_no_truncation(size: int) -> None:
    """As written into a pipe, or by a recorder that was interrupted."""
    whole = encoded("WAV", "PCM_16")
    data = with_header_size(whole, size)
    samples, said = read(data)
    np.testing.assert_array_equal(samples, load_audio(whole))
    assert said == []


def test_flac_without_a_stated_length_is_read_to_its_last_sample() -> None:
    whole = encoded("FLAC")
    data = without_stated_length(whole)
    samples, said = read(data)
    np.testing.assert_array_equal(samples, load_audio(whole))
    assert said == []
    samples, said = read(data[: len(data) // 2])
    assert abs(len(samples) / (SECONDS * RATE) - 0.5) < 0.05
    assert len(said) == 1 and "its end is missing" in said[0]


def test_mp3_of_variable_bit_rate_without_a_stated_length_is_read_to_its_end() -> None:
    """A guess from the first frame's bit rate, which is libsndfile's, is far off where that frame is a loud one."""
    quiet = np.concatenate([wave()[-RATE:], 1e-3 * wave()])
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", RATE, 1, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.1
    ) as sound:
        sound.write(quiet)
    data = without_first_frame(file.getvalue())
    assert soundfile.info(io.BytesIO(data)).frames < 0.8 * len(quiet)  # or else there is nothing to mend
    samples, said = read(data)
    assert abs(len(samples) - len(quiet)) < 3 * 1152 and said == []
    samples, _ = read(data + b"TAG" + bytes(125))  # an ID3v1 tag is not audio
    assert abs(len(samples) - len(quiet)) < 3 * 1152


def test_long_comments_before_the_sound_do_not_hide_its_length() -> None:
    data = encoded("WAV", "PCM_16")
    comment = b"LIST" + struct.pack("<I", 9012) + b"INFOICMT" + struct.pack("<I", 9000) + b"x" * 9000
    data = data[:36] + comment + data[36:]
    assert read(data)[1] == []
    assert "50" in read(data[: len(comment) + 44 + SECONDS * RATE])[1][0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"])
def test_a_file_cut_to_its_first_bytes_is_an_error(tmp_path: Path, container: str) -> None:
    path = tmp_path / "stub.sound"
    path.write_bytes(encoded(container)[:24])
    with pytest.raises(AudioDecodeError, match=r"stub\.sound"):
        load_audio(path)
