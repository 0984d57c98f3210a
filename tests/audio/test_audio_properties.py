"""Arrays and files of any type, length, rate, layout and damage: audio of the right length, or a typed error."""

import io
import warnings

import numpy as np
import pytest
import soundfile
import torch

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays  # noqa: E402

from uamix_hf import AudioInputError, AudioMAEFeatureExtractor, load_audio, stream_audio  # noqa: E402

RATE = 16_000
pytestmark = pytest.mark.filterwarnings("ignore")
# The same examples in every run, and no complaint about a slow machine.
FIXED = settings(deadline=None, derandomize=True, database=None, max_examples=150)
SCALE = {"int16": 2.0**15, "int32": 2.0**31, "uint8": 2.0**7}

KINDS = st.sampled_from("f2 <f4 >f4 <f8 >f8 i1 <i2 >i2 <i4 >i4 i8 u1 u2 u4 c8 ? S3 U3 O".split())
SHAPES = st.lists(st.integers(0, 40), min_size=0, max_size=3).map(tuple)


@FIXED
@given(st.data(), KINDS, SHAPES, st.sampled_from(["array", "list", "value", "tensor", "transposed", "strided"]))
def test_arrays_of_any_type_and_shape(data: st.DataObject, kind: str, shape: tuple[int, ...], form: str) -> None:
    if kind == "O":
        array = np.full(shape, None, object)
    else:
        array = data.draw(arrays.arrays(np.dtype(kind), shape))
    source = array
    if form == "list":
        source = array.tolist()
    elif form == "value":
        source = {"array": array, "sampling_rate": RATE, "path": "clip.wav"}
    elif form == "tensor" and kind in ("f2", "<f4", "<f8", "i1", "<i2", "<i4", "i8", "u1"):
        source = torch.from_numpy(array.copy())
    elif form == "transposed":
        source = array.T
    elif form == "strided":
        source = array[::-1] if array.ndim else array
    try:
        samples = load_audio(source)
    except AudioInputError:
        # Refused for a reason: real audio, in one or two axes, is not.
        plain = array.ndim in (1, 2) and array.size and form != "list" and array.dtype.name in (*SCALE, "float32")
        finite = plain and np.abs(array.astype(np.float64)).max() <= 2.0**32
        assert not finite
        return
    except TypeError:  # a single value is no source at all
        assert array.ndim == 0
        return
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()
    assert len(samples) == max(array.shape)
    offset = 128 if array.dtype == np.uint8 else 0
    exact = (array.astype(np.float64) - offset) / SCALE.get(array.dtype.newbyteorder("=").name, 1.0)
    if form == "transposed":
        exact = exact.T
    elif form == "strided":
        exact = exact[::-1]
    if exact.ndim == 2:
        exact = exact.mean(axis=0 if exact.shape[0] <= exact.shape[1] else 1)
    np.testing.assert_allclose(samples, exact, rtol=1e-5, atol=1e-6 * max(1, np.abs(array.astype(np.float64)).max()))


@FIXED
@given(
    st.integers(1, 3000),
    st.integers(1, 8),
    st.integers(-5, 400_000) | st.sampled_from([8000, 11_025, 22_050, 44_100, 48_000, 96_000, 384_000]),
    st.integers(0, 2**32 - 1),
)
def test_arrays_of_any_rate_and_number_of_channels(length: int, channels: int, rate: int, seed: int) -> None:
    wave = np.random.default_rng(seed).uniform(0.1, 0.9, (channels, length))
    try:
        samples = load_audio({"array": wave, "sampling_rate": rate})
    except AudioInputError:
        assert rate < 1000 or max(wave.shape) * RATE / rate < 2
        return
    assert abs(len(samples) - max(wave.shape) * RATE / rate) <= 1
    assert np.isfinite(samples).all() and np.abs(samples).max() > 0.01  # no silent clip of what is not silent


@FIXED
@given(
    st.sampled_from(["WAV PCM_U8", "WAV PCM_16", "WAV PCM_24", "WAV FLOAT", "WAV ULAW", "WAVEX PCM_16", "FLAC PCM_16"])
    | st.sampled_from(["OGG VORBIS", "MP3 MPEG_LAYER_III", "AIFF PCM_16", "CAF PCM_16"]),
    st.integers(0, 3000),
    st.integers(1, 6),
    st.sampled_from([8000, 11_025, 16_000, 22_050, 44_100, 48_000]),
    st.integers(1, 20_000),
)
def test_files_of_any_format_rate_and_number_of_channels(
    form: str, length: int, channels: int, rate: int, block: int
) -> None:
    container, subtype = form.split()
    channels = min(channels, 2) if container == "MP3" else channels
    wave = np.random.default_rng(length).uniform(0.1, 0.9, (length, channels))
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=container, subtype=subtype)
    try:
        samples = load_audio(file.getvalue())
    except AudioInputError:
        assert length * RATE / rate < 2
        return
    slack = 3 * 1152 if container == "MP3" else 1
    assert abs(len(samples) - length * RATE / rate) <= slack * max(1, RATE / rate)
    assert np.isfinite(samples).all() and np.abs(samples).max() > 0.01
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(file.getvalue(), RATE, block / RATE))), samples)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    container = draw(st.sampled_from(["WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64"]))
    channels = draw(st.integers(1, 2))
    wave = np.random.default_rng(0).uniform(-0.8, 0.8, (draw(st.integers(100, 4000)), channels))
    file = io.BytesIO()
    soundfile.write(file, wave, draw(st.sampled_from([8000, 16_000, 44_100])), format=container)
    data = bytearray(file.getvalue())
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, min(len(data), 400) - 1))] = draw(st.integers(0, 255))
    del data[draw(st.integers(1, len(data))) :]
    return draw(st.sampled_from([b"", b"ID3\x04\0\0\0\0\0\x05hello"])) + bytes(data)


@settings(FIXED, max_examples=400)
@given(damaged_files() | st.binary(max_size=600))
def test_damaged_files_are_sound_or_an_error_of_ours(data: bytes) -> None:
    try:
        samples = load_audio(data)
    except AudioInputError as error:
        assert "bytes of audio" in str(error)
        return
    assert samples.dtype == np.float32 and len(samples) and np.isfinite(samples).all()


@settings(FIXED, max_examples=60)
@given(st.integers(1, 4000), st.sampled_from([1e-30, 1e-4, 0.5, 1.5, 4e4, 2.0**31]), st.booleans())
def test_log_mels_of_whatever_is_accepted_are_finite(length: int, peak: float, constant: bool) -> None:
    wave = np.full(length, peak) if constant else np.random.default_rng(length).uniform(-peak, peak, length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mel = AudioMAEFeatureExtractor().log_mels([load_audio(wave)])[0]
    assert mel.isfinite().all() and len(mel) == max(1, 1 + (length - 400) // 160)
