"""The extractor against Kaldi's own values, Audio-MAE's arithmetic, and whatever users hand in."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ASTFeatureExtractor, AutoFeatureExtractor

from uamix_hf import AudioInputError, AudioMAEFeatureExtractor
from uamix_hf.feature_extraction_audio_mae import kaldi_fbank

RATE = 16_000
COMPUTE = """
import sys
from safetensors.torch import load_file, save_file
from uamix_hf import AudioMAEFeatureExtractor
from uamix_hf.feature_extraction_audio_mae import kaldi_fbank

extractor, out = AudioMAEFeatureExtractor(), {}
for name, wave in load_file(sys.argv[1]).items():
    if name.endswith(".waveform"):
        name = name.removesuffix(".waveform")
        out[name + ".fbank"] = kaldi_fbank(wave[None])[0]
        inputs = extractor(wave, sampling_rate=16000, padding="max_length", return_tensors="pt")
        out[name + ".audiomae_input_1024"] = inputs.input_values[0]
save_file(out, sys.argv[2])
"""


@pytest.fixture(scope="module")
def extractor() -> AudioMAEFeatureExtractor:
    return AudioMAEFeatureExtractor()


@pytest.fixture(scope="module")
def kaldi(fixtures: Path) -> dict[str, torch.Tensor]:
    return load_file(fixtures / "fbank_kaldi.safetensors")


@pytest.fixture(scope="module")
def ours(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Our values from a process whose Fourier transform rounds alike on every processor.

    Where a mel bin holds a millionth of its frame's energy, rounding of the float32 transform shows in the logarithm:
    the same upstream code differs by 1e-2 in such bins of a chirp between processors. MKL's reproducible mode takes
    that out.
    """
    target = tmp_path_factory.mktemp("fbank") / "ours.safetensors"
    environment = os.environ | {"MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
    source = fixtures / "fbank_kaldi.safetensors"
    subprocess.run([sys.executable, "-c", COMPUTE, str(source), str(target)], env=environment, check=True)
    return load_file(target)


def test_fbank_equals_kaldi(kaldi: dict[str, torch.Tensor], ours: dict[str, torch.Tensor]) -> None:
    names = [name for name in kaldi if name.endswith(".fbank")]
    assert len(names) == 7
    for name in names:
        torch.testing.assert_close(ours[name], kaldi[name], atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_max_length_padding_is_audiomaes_arithmetic(kaldi: dict, ours: dict) -> None:
    names = [name for name in kaldi if name.endswith(".audiomae_input_1024")]
    assert len(names) == 7
    for name in names:
        torch.testing.assert_close(ours[name], kaldi[name], atol=5e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_mel_energies_equal_kaldis_on_this_processor_too(kaldi: dict[str, torch.Tensor]) -> None:
    for name in (name for name in kaldi if name.endswith(".waveform")):
        expected = kaldi[name.replace("waveform", "fbank")].exp()
        error = (kaldi_fbank(kaldi[name][None])[0].exp() - expected).abs()
        assert (error / expected.amax(dim=1, keepdim=True)).max() < 2e-5


def test_fbank_equals_a_float64_fourier_sum_written_out() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 1000)
    frames = []
    for start in range(0, 1000 - 400 + 1, 160):
        frame = wave[start : start + 400] - wave[start : start + 400].mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        frame = frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399))
        phase = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
        frames.append(np.abs(phase @ frame) ** 2)
    mel = 1127 * np.log1p(np.arange(257) * RATE / 512 / 700)
    corners = np.linspace(1127 * np.log1p(20 / 700), 1127 * np.log1p(8000 / 700), 130)
    filters = np.array([np.interp(mel, corners[i : i + 3], [0, 1, 0]) for i in range(128)])
    expected = np.log(np.maximum(np.array(frames) @ filters.T, np.finfo(np.float32).eps))
    actual = kaldi_fbank(torch.tensor(wave, dtype=torch.float32)[None])[0]
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_torchaudio_backend_equals_ours() -> None:
    if importlib.util.find_spec("torchaudio") is None:
        with pytest.raises(ImportError, match="fbank_backend='torch'"):
            AudioMAEFeatureExtractor(fbank_backend="torchaudio").log_mels([np.zeros(RATE)])
        return
    wave = torch.randn(RATE) * 0.1
    upstream = AudioMAEFeatureExtractor(fbank_backend="torchaudio").log_mels([wave])[0]
    torch.testing.assert_close(AudioMAEFeatureExtractor().log_mels([wave])[0], upstream, atol=1e-4, rtol=0)


@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is not None, reason="AST's extractor then takes torchaudio")
def test_agrees_with_transformers_ast_extractor() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    wave -= wave.mean()  # Audio-MAE takes the mean off, AST does not
    theirs = ASTFeatureExtractor()(wave, sampling_rate=RATE, return_tensors="pt").input_values
    actual = AudioMAEFeatureExtractor()(
        wave, sampling_rate=RATE, padding="max_length", return_tensors="pt"
    ).input_values
    torch.testing.assert_close(actual, theirs, atol=2e-3, rtol=0)


def test_padding_and_silence_have_audiosets_values(extractor: AudioMAEFeatureExtractor) -> None:
    assert extractor.padding_value == pytest.approx(4.2677393 / (2 * 4.5689974), abs=1e-6)  # +0.467
    values = extractor(np.zeros(RATE), sampling_rate=RATE, padding="max_length", return_tensors="pt").input_values[0]
    floor = (np.log(np.finfo(np.float32).eps) + 4.2677393) / (2 * 4.5689974)
    assert values[:98].eq(values[0, 0]).all() and values[0, 0].item() == pytest.approx(floor, abs=1e-5)  # -1.278
    assert values[98:].sub(extractor.padding_value).abs().max() < 1e-6


def test_default_pads_to_the_longest_in_whole_patches(extractor: AudioMAEFeatureExtractor) -> None:
    clips = [np.random.default_rng(i).normal(0, 0.1, n) for i, n in enumerate((16_000, 30_000, 5_000))]
    batch = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    lengths = [1 + (len(clip) - 400) // 160 for clip in clips]  # 98, 186, 29
    assert batch.input_values.shape == (3, 192, 128)
    assert batch.attention_mask.sum(1).tolist() == lengths
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        alone = extractor(clip, sampling_rate=RATE, return_tensors="pt", padding=False).input_values
        torch.testing.assert_close(batch.input_values[row, :length], alone[0], atol=1e-6, rtol=0)
        assert batch.attention_mask[row, :length].all()
        assert batch.input_values[row, length:].sub(extractor.padding_value).abs().max() < 1e-6 or length == 192


def test_every_form_of_input_gives_the_same(extractor: AudioMAEFeatureExtractor) -> None:
    wave = (np.random.default_rng(0).normal(0, 0.1, 4000)).astype(np.float32)
    expected = extractor(wave, sampling_rate=RATE, return_tensors="pt").input_values
    forms = [wave.tolist(), torch.tensor(wave), wave.astype(np.float64), [wave], [wave.tolist()], wave[None]]
    for form in [*forms, torch.tensor(wave)[None], (wave,)]:
        actual = extractor(form, sampling_rate=RATE, return_tensors="pt").input_values
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert extractor(wave, sampling_rate=RATE, return_tensors="np").input_values.dtype == np.float32
    assert isinstance(extractor(wave, sampling_rate=RATE).input_values, list)


@pytest.mark.parametrize("dtype,scale,offset", [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 128)])
def test_integers_are_scaled_by_their_type(extractor, dtype: str, scale: int, offset: int) -> None:
    levels = np.round(np.random.default_rng(0).normal(0, 0.1, 8000) * scale)
    stored = (levels + offset).astype(dtype)
    expected = extractor(levels / scale, sampling_rate=RATE, return_tensors="pt").input_values
    for form in (stored, torch.from_numpy(stored)):
        torch.testing.assert_close(extractor(form, sampling_rate=RATE, return_tensors="pt").input_values, expected)


@pytest.mark.parametrize(
    "clip,says",
    [
        (np.zeros(0), "no samples"),
        ([], "empty"),
        (np.array([0.0, np.nan] * 500), "NaN"),
        (np.array([0.0, np.inf] * 500), "infinite"),
        (np.zeros((2, 2, 800)), "average channels"),
        ([np.zeros((2, 800))], "average its channels"),
        (np.zeros((800, 2)), "average channels"),
        (np.zeros(800, np.int64), "full scale"),
        (np.zeros(800, bool), "full scale"),
        (["a.wav"], "load_audio|Expected numbers"),
        ("a.wav", "load_audio"),
        (None, "load_audio"),
    ],
)
def test_unusable_input_is_a_typed_error_that_says_what_to_do(extractor, clip, says: str) -> None:
    with pytest.raises(AudioInputError, match=says):
        extractor(clip, sampling_rate=RATE)


def test_wrong_rate_is_an_error_and_a_missing_one_a_warning(extractor, caplog) -> None:
    with pytest.raises(AudioInputError, match="8000 Hz.*16000 Hz"):
        extractor(np.zeros(8000), sampling_rate=8000)
    assert "sampling_rate" in warnings_of("extractor(np.zeros(8000))")


def test_short_and_loud_clips_are_said_once() -> None:
    once = warnings_of("extractor(np.ones(100) * .1, sampling_rate=16000); extractor([0.] * 9, sampling_rate=16000)")
    assert once.count("shorter than one frame") == 1
    assert "3e+04" in warnings_of("extractor(np.full(800, 3e4), sampling_rate=16000)")


def warnings_of(statement: str) -> str:
    """What a fresh process logs: transformers says each warning once per process."""
    setup = "import numpy as np; from uamix_hf import AudioMAEFeatureExtractor; extractor = AudioMAEFeatureExtractor()"
    code = f"{setup}\n{statement}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr


def test_a_clip_shorter_than_a_frame_is_one_frame(extractor: AudioMAEFeatureExtractor) -> None:
    batch = extractor(np.full(1, 0.5), sampling_rate=RATE, return_tensors="pt")
    assert batch.attention_mask.sum() == 1 and batch.input_values.isfinite().all()


def test_truncation_keeps_the_head(extractor: AudioMAEFeatureExtractor) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 12 * RATE)
    whole = extractor(wave, sampling_rate=RATE, return_tensors="pt").input_values
    cut = extractor(wave, sampling_rate=RATE, truncation=True, return_tensors="pt").input_values
    assert whole.shape[1] == 1200 and cut.shape[1] == 1024
    torch.testing.assert_close(cut, whole[:, :1024])


def test_saved_truncation_is_the_default_of_calls_and_said(tmp_path: Path, caplog) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 12 * RATE)
    AudioMAEFeatureExtractor(max_length=992, truncation=True).save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path, truncation=False).truncation is False
    asked = [extractor(wave, RATE, truncation=choice, return_tensors="pt") for choice in (True, False)]
    assert [call.input_values.shape[1] for call in asked] == [992, 1200] and not caplog.records
    cut = extractor(wave, RATE, return_tensors="pt")
    assert torch.equal(cut.input_values, asked[0].input_values) and cut.attention_mask.shape == (1, 992)
    assert "longer than 992 frames of 10 ms are cut" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_spectrograms_padded_later_are_those_padded_at_once(extractor: AudioMAEFeatureExtractor, first: bool) -> None:
    """One after the other and then together, as transformers' data collators do, and all in one call."""
    waves = [np.random.default_rng(length).normal(0, 0.1, length) for length in (9000, 4000, 20_000)]
    expected = extractor(waves, sampling_rate=RATE, return_tensors="pt")
    rows = [extractor(wave, sampling_rate=RATE, padding=first) for wave in waves]
    features = [{name: values[0] for name, values in row.items()} for row in rows]
    found = extractor.pad([dict(row) for row in features], return_tensors="pt")
    assert torch.equal(found["attention_mask"], expected["attention_mask"])
    torch.testing.assert_close(found["input_values"], expected["input_values"])
    without_masks = extractor.pad([{"input_values": row["input_values"]} for row in features], return_tensors="pt")
    assert torch.equal(without_masks["input_values"], found["input_values"])
    lengths = [len(row["input_values"]) for row in features]
    assert without_masks["attention_mask"].sum(1).tolist() == lengths


def test_saved_extractor_computes_the_same(tmp_path: Path) -> None:
    extractor = AudioMAEFeatureExtractor(mean=-6.5, std=5.25, max_length=512)
    extractor.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    wave = np.random.default_rng(0).normal(0, 0.1, 4000)
    assert (loaded.mean, loaded.std, loaded.std_factor, loaded.max_length) == (-6.5, 5.25, 2.0, 512)
    first, second = (e(wave, sampling_rate=RATE, return_tensors="pt").input_values for e in (extractor, loaded))
    assert torch.equal(first, second)
    assert loaded.padding_value == pytest.approx(6.5 / 10.5)
