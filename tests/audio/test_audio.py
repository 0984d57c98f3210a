"""Every kind of audio source gives the same samples, or an error that names what cannot be read."""

import gzip
import io
import subprocess
import tarfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import numpy as np
import pytest
import soundfile
import torch

from uamix_hf import AudioDecodeError, AudioInputError, load_audio, stream_audio
from uamix_hf.audio.files import READ_FRAMES, other_unicode_form

RATE = 16_000


def tones(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """Two sines that fade in and out, so that lossy codecs keep them; (samples,) float32."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1234 * time)
    return (wave * np.hanning(len(time))).astype(np.float32)


def as_bytes(samples: np.ndarray, rate: int = RATE, container: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_32", 2**-24),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
        ("OGG", "VORBIS", 0.03),
        ("MP3", "MPEG_LAYER_III", 0.03),
    ],
)
def test_formats_of_one_signal_agree(tmp_path: Path, container: str, subtype: str, tolerance: float) -> None:
    wave = tones()
    path = tmp_path / f"clip.{container.lower()}"
    soundfile.write(path, wave, RATE, format=container, subtype=subtype)
    loaded = load_audio(path)
    assert loaded.dtype == np.float32 and loaded.shape == wave.shape
    assert np.abs(loaded - wave).max() <= tolerance


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (0.9, 0.1, 0.5, 0.0, -0.3, 0.3)])
def test_channels_are_averaged_not_added(weights: tuple[float, ...]) -> None:
    wave = tones()
    channels = np.outer(wave, weights).astype(np.float32)  # (samples, channels)
    expected = wave * np.mean(weights)
    for source in (as_bytes(channels, subtype="FLOAT"), channels, channels.T):
        np.testing.assert_allclose(load_audio(source), expected, atol=1e-7)


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    wave = tones(0.3)
    path = tmp_path / "Würfel 音 é.flac"
    soundfile.write(path, wave, RATE, subtype="PCM_16")
    data = path.read_bytes()
    expected, _ = soundfile.read(path, dtype="float32")
    files = [path, str(path), np.str_(path), data, io.BytesIO(data), {"bytes": data, "path": None}]
    files += [{"bytes": data, "path": "elsewhere.flac"}, {"bytes": None, "path": str(path)}, {"path": str(path)}]
    for source in files:
        np.testing.assert_array_equal(load_audio(source), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_audio(file), expected)
        assert not file.closed  # it is the caller's
        np.testing.assert_array_equal(load_audio(file), expected)  # from wherever it was left
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as process:
        np.testing.assert_array_equal(load_audio(process.stdout), expected)  # which cannot be sought in
    arrays = [expected, expected.astype(np.float64), torch.from_numpy(expected), expected.tolist()]
    arrays += [{"array": expected, "sampling_rate": RATE}, {"raw": expected, "sampling_rate": RATE}]
    arrays += [(expected * 2**15).astype(kind) for kind in (np.int16, ">i2")]
    arrays += [expected.astype(">f4"), torch.from_numpy(expected).requires_grad_(), expected[::-1][::-1]]
    for source in arrays:
        loaded = load_audio(source)
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_the_other_form_of_unicode_is_said(tmp_path: Path, forms: tuple[str, str]) -> None:
    """Both look alike on the screen: macOS writes accents as characters of their own."""
    ours, theirs = (tmp_path / normalize(form, "Würfel") / normalize(form, "é à.wav") for form in forms)
    theirs.parent.mkdir()
    theirs.write_bytes(as_bytes(tones(), subtype="FLOAT"))
    if ours.exists():  # the file system takes them for one
        np.testing.assert_array_equal(load_audio(ours), tones())
        return
    for source in (ours, str(ours), {"bytes": None, "path": str(ours)}):
        with pytest.raises(AudioDecodeError, match=rf"no such file, but one whose accents .*'{forms[1]}'"):
            load_audio(source)
    assert other_unicode_form(ours) == str(theirs)
    assert other_unicode_form(ours.with_name("other.wav")) is None and other_unicode_form("nowhere/é.wav") is None
    with pytest.raises(AudioDecodeError, match=r"other\.wav: no such file\.$"):
        load_audio(theirs.with_name("other.wav"))


def test_an_error_of_the_callers_own_file_is_told(tmp_path: Path) -> None:
    """Not lost in the decoder, which would take it for the end of the file."""
    whole = gzip.compress(as_bytes(np.random.default_rng(0).uniform(-1, 1, 20_000)))
    with gzip.open(io.BytesIO(whole)) as file:
        file.read(5000)
        assert len(load_audio(file)) == 20_000  # from wherever it was left
    for damaged, says in ((whole[:-9000], "ended before"), (whole[:9000] + bytes(50) + whole[9050:], "cannot be read")):
        with gzip.open(io.BytesIO(damaged)) as file, pytest.raises(AudioDecodeError, match=says):
            load_audio(file)
    (tmp_path / "clip.wav").write_bytes(as_bytes(tones()))
    with tarfile.open(tmp_path / "clips.tar", "w") as archive:
        archive.add(tmp_path / "clip.wav", "folder/clip.wav")
        archive.add(tmp_path / "clip.wav", "folder/other.wav")
    with tarfile.open(tmp_path / "clips.tar", "r|") as archive:
        files = [archive.extractfile(member) for member in archive]
        with pytest.raises(AudioDecodeError, match=r"cannot be read \(seeking backwards"):
            load_audio(files[0])


def test_a_float_file_of_16_bit_values_is_warned_of_by_name(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    for peak, warned in ((1.4, False), (30_000, True)):
        soundfile.write(path, peak * tones() / np.abs(tones()).max(), RATE, subtype="FLOAT")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_audio(path)
        texts = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
        assert len(texts) == warned and all(str(path) in text and "3e+04" in text for text in texts)


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(as_bytes(tones(), container="FLAC"))
    assert np.abs(load_audio(path) - tones()).max() <= 2**-15


VALUES: dict[str, tuple[Callable[[np.ndarray, bytes], object], str]] = {
    "another name for the rate": (lambda wave, _: {"array": wave, "sample_rate": 48_000}, "sample_rate"),
    "both names": (lambda wave, _: {"array": wave, "sampling_rate": RATE, "sr": 48_000}, "with sr;"),
    "raw": (lambda wave, _: {"raw": wave, "rate": 48_000}, "with rate;"),
    "no rate": (lambda wave, _: {"array": wave, "path": "clip.wav"}, r"clip\.wav.*array and no sampling_rate"),
    "rate of None": (lambda wave, _: {"raw": wave, "sampling_rate": None}, "raw and no sampling_rate"),
    "torchaudio": (lambda wave, _: {"waveform": wave, "sampling_rate": 48_000}, "waveform"),
    "two sources": (lambda wave, data: {"array": wave, "bytes": data, "sampling_rate": RATE}, "array and bytes"),
    "two arrays": (lambda wave, _: {"array": wave, "raw": wave, "sampling_rate": RATE}, "array and raw"),
    "rate of a file": (lambda _, data: {"bytes": data, "sampling_rate": 48_000}, "the rate of a file is in its header"),
    "a part of a file": (lambda _, data: {"bytes": data, "offset": 0.5}, "offset"),
    "row": (lambda _, data: {"audio": {"bytes": data}, "label": 1}, "audio, label;.*its audio column"),
    "nothing": (lambda wave, data: {}, "neither bytes nor path"),
    "pair": (lambda wave, _: (wave, 48_000), r"tuple of ndarray, int.*sampling_rate"),
    "pair of a tensor": (
        lambda wave, _: (torch.from_numpy(wave[None]), 48_000),
        "tuple of Tensor, int",
    ),
    "pair the other way": (lambda wave, _: [48_000, wave], "list of int, ndarray.*sampling_rate"),
    "member": (lambda _, data: ("clip.wav", data), "tuple of str, bytes.*path"),
}


@pytest.mark.parametrize("name", VALUES)
def test_nothing_that_a_value_says_is_passed_over(name: str) -> None:
    make, says = VALUES[name]
    for read in (load_audio, lambda source: list(stream_audio(source))):
        with pytest.raises(AudioInputError, match=says):
            read(make(tones(), as_bytes(tones(), 48_000)))


def test_keys_of_a_value_without_a_value_count_for_nothing() -> None:
    wave = tones()
    for value in ({"array": wave, "sampling_rate": RATE, "bytes": None, "path": None, "raw": None},
                  {"bytes": as_bytes(wave, subtype="FLOAT"), "array": None, "sampling_rate": None}):  # fmt: skip
        np.testing.assert_array_equal(load_audio(value), wave)


def test_a_decoder_decodes_once() -> None:
    """What `datasets` returns where it decodes itself, in blocks, too."""
    calls = []

    class Decoder:
        def get_all_samples(self) -> SimpleNamespace:
            calls.append(self)
            return SimpleNamespace(data=torch.from_numpy(np.stack([tones(1, 48_000)] * 2)), sample_rate=48_000)

    expected = load_audio({"array": tones(1, 48_000), "sampling_rate": 48_000})
    for read in (load_audio, lambda source: np.concatenate(list(stream_audio(source, block_seconds=0.3)))):
        np.testing.assert_array_equal(read(Decoder()), expected)
    assert len(calls) == 2


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("samples", [12_345, 2 * READ_FRAMES])  # the latter ends with an empty read
def test_resampling_keeps_frequency_amplitude_and_length(rate: int, samples: int) -> None:
    frequency, amplitude = 1000.0, 0.5
    wave = (amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)
    for source in (as_bytes(wave, rate, subtype="FLOAT"), {"array": wave, "sampling_rate": rate}):
        loaded = load_audio(source)
        assert abs(len(loaded) - round(samples * RATE / rate)) <= 1
        expected = amplitude * np.sin(2 * np.pi * frequency * np.arange(len(loaded)) / RATE)
        edge = RATE // 50  # the filter sees silence before the first sample
        np.testing.assert_allclose(loaded[edge:-edge], expected[edge:-edge], atol=1e-4)
    assert len(load_audio(wave)) == samples  # a bare array has the rate already


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    time = np.arange(48_000) / 48_000
    loaded = load_audio({"array": np.sin(2 * np.pi * 10_000 * time), "sampling_rate": 48_000})
    assert np.abs(loaded[1000:-1000]).max() < 1e-3  # an alias would be at 6 kHz


def nan_wav() -> bytes:
    wave = tones()
    wave[100] = np.nan
    return as_bytes(wave, subtype="FLOAT")


UNREADABLE: dict[str, Callable[[], bytes]] = {
    "empty.wav": lambda: b"",
    "text.wav": lambda: b"version https://git-lfs.github.com/spec/v1\n",
    "picture.flac": lambda: b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "noise.mp3": lambda: bytes(5000),
    "headerless.raw": lambda: bytes(5000),
    "cut to its head.wav": lambda: as_bytes(tones())[:30],
    "cut to its head.flac": lambda: as_bytes(tones(), container="FLAC")[:30],
    "cut to its head.ogg": lambda: as_bytes(tones(), container="OGG")[:30],
    "damaged from the first sample on.flac": lambda: as_bytes(tones(), container="FLAC")[:200] + bytes(9000),
    "cut within its only page.ogg": lambda: as_bytes(tones(), container="OGG")[:-100],
    "no samples.wav": lambda: as_bytes(np.zeros(0)),
    "one sample at 48 kHz.wav": lambda: as_bytes(np.full(1, 0.5), 48_000),
    "one hertz.wav": lambda: as_bytes(tones(), 1),
    "nan.wav": nan_wav,
    "extremely loud.wav": lambda: as_bytes(np.array([0.0, 1e30]), subtype="DOUBLE"),
    "infinite.wav": lambda: as_bytes(np.array([0.0, np.inf]), subtype="DOUBLE"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_errors_that_name_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(UNREADABLE[name]())
    for read in (load_audio, lambda source: list(stream_audio(source))):
        for source in (path, {"bytes": None, "path": str(path)}, {"bytes": path.read_bytes(), "path": str(path)}):
            with pytest.raises(AudioDecodeError) as refusal:
                read(source)
            assert name in str(refusal.value)
        with path.open("rb") as file, pytest.raises(AudioDecodeError, match=name):
            read(file)
        with pytest.raises(AudioDecodeError, match="bytes of audio"):
            read(path.read_bytes())


def test_missing_files_and_unusable_values() -> None:
    with pytest.raises(AudioDecodeError, match=r"nowhere/clip\.wav"):
        load_audio("nowhere/clip.wav")
    with pytest.raises(AudioDecodeError, match="neither bytes nor path"):
        load_audio({"bytes": None, "path": None})
    with pytest.raises(AudioDecodeError):
        load_audio(Path(__file__).parent)
    for value in (3, None):
        with pytest.raises(TypeError, match="Expected a path"):
            load_audio(value)
    with open(__file__) as text, pytest.raises(TypeError, match="mode 'rb'"):
        load_audio(text)
    with open(__file__, "rb") as closed:
        pass
    with pytest.raises(AudioDecodeError, match=r"test_audio\.py.*closed"):
        load_audio(closed)


@pytest.mark.parametrize(
    "samples",
    [
        np.array([0.0, np.nan]),
        np.array([[0.0, np.nan, 0.0], [0.0, 0.0, 0.0]]),
        np.zeros(0),
        np.zeros((2, 0)),
        np.zeros((2, 2, 2)),
        np.zeros(4, np.int64),
        np.zeros(4, np.longdouble),
        np.array([0.0, 3e38], np.float32),  # the average of two such channels would be infinite
        ["a", "b"],
        [[0.0, 0.1], [0.0]],
    ],
)
def test_unusable_arrays_are_errors_that_name_their_path(samples) -> None:
    for read in (load_audio, lambda source: list(stream_audio(source))):
        with pytest.raises(AudioInputError, match=r"clip\.wav"):
            read({"array": samples, "sampling_rate": RATE, "path": "clip.wav"})
    for rate in (0, -RATE, 1, np.nan, np.inf, "fast"):
        with pytest.raises(AudioInputError, match=r"clip\.wav.*sampling rate"):
            load_audio({"array": np.ones(100), "sampling_rate": rate, "path": "clip.wav"})
    with pytest.raises(AudioInputError, match=r"clip\.wav"):  # nothing is left of it
        load_audio({"array": np.ones(1), "sampling_rate": 48_000, "path": "clip.wav"})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_damage_is_sound_or_our_error(container: str) -> None:
    rng = np.random.default_rng(0)
    data = as_bytes(tones(0.2), container=container)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.5 else data)
        for place in rng.integers(0, min(len(damaged), 300), 4):
            damaged[place] = rng.integers(256)
        try:
            loaded = load_audio(bytes(damaged))
            assert loaded.ndim == 1 and len(loaded) and np.isfinite(loaded).all()
            outcomes.add("audio")
        except AudioInputError:
            outcomes.add("error")
    assert "error" in outcomes


@pytest.mark.parametrize("rate", [RATE, 22_050])
@pytest.mark.parametrize("block_seconds", [0.1, 1.0, 40.0])
def test_blocks_join_to_the_whole(rate: int, block_seconds: float) -> None:
    rng = np.random.default_rng(1)
    data = as_bytes(rng.uniform(-0.5, 0.5, (30 * rate + 77, 2)), rate)  # several reads long
    whole, block = load_audio(data), round(block_seconds * RATE)
    for source in (data, {"array": whole, "sampling_rate": RATE}):
        blocks = list(stream_audio(source, RATE, block_seconds))
        assert all(len(part) == block for part in blocks[:-1]) and 0 < len(blocks[-1]) <= block
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("rate", [0, -RATE, True, 16.0, np.nan, np.inf])
def test_a_rate_that_no_sound_has_is_not_made(rate: float) -> None:
    for read in (load_audio, lambda *arguments: list(stream_audio(*arguments))):
        for source in (tones(), as_bytes(tones())):
            with pytest.raises(ValueError, match="sampling_rate="):
                read(source, rate)


def test_a_block_of_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="less than one sample"):
        next(stream_audio(tones(), RATE, 1e-6))


def peak_memory(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_stream_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path, rate = tmp_path / "ten-minutes.wav", 22_050
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for _ in range(600):
            file.write(tones(1.0, rate))

    def stream() -> None:
        assert sum(len(block) for block in stream_audio(path)) == 600 * RATE

    assert peak_memory(lambda: load_audio(path)) > 4 * 600 * RATE  # what the whole takes is seen
    assert peak_memory(stream) < 600 * RATE
