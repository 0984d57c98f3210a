"""The extractor against Kaldi's own values, Audio-MAE's arithmetic, and whatever users hand in."""

import contextlib
import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_code
from safetensors.torch import load_file
from transformers import ASTFeatureExtractor, AutoFeatureExtractor

from uamix_hf import AudioInputError, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.models.audio_mae.filter_banks_audio_mae import FilterBank, kaldi_mel_filters

RATE = 16_000
COMPUTE = """
import sys
from safetensors.torch import load_file, save_file
from uamix_hf import AudioMAEFeatureExtractor
from uamix_hf.models.audio_mae.filter_banks_audio_mae import FilterBank

extractor, out = AudioMAEFeatureExtractor(), {}
for name, wave in load_file(sys.argv[1]).items():
    if name.endswith(".waveform"):
        name = name.removesuffix(".waveform")
        out[name + ".fbank"] = FilterBank().log_mels(wave[None])[0]
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
        error = (FilterBank().log_mels(kaldi[name][None])[0].exp() - expected).abs()
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
    actual = FilterBank().log_mels(torch.tensor(wave, dtype=torch.float32)[None])[0]
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


@pytest.fixture
def warnings_of(tmp_path: Path) -> Callable[[str], str]:
    """What a fresh process logs: transformers says each warning once per process."""
    setup = "import numpy as np; from uamix_hf import AudioMAEFeatureExtractor; extractor = AudioMAEFeatureExtractor()"
    return lambda statement: run_code(f"{setup}\n{statement}", tmp_path).well()


def test_wrong_rate_is_an_error_and_a_missing_one_a_warning(extractor, caplog, warnings_of) -> None:
    with pytest.raises(AudioInputError, match="8000 Hz.*16000 Hz"):
        extractor(np.zeros(8000), sampling_rate=8000)
    assert "sampling_rate" in warnings_of("extractor(np.zeros(8000))")


def test_short_and_loud_clips_are_said_once(warnings_of) -> None:
    once = warnings_of("extractor(np.ones(100) * .1, sampling_rate=16000); extractor([0.] * 9, sampling_rate=16000)")
    assert once.count("shorter than one frame") == 1
    assert "3e+04" in warnings_of("extractor(np.full(800, 3e4), sampling_rate=16000)")


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


@pytest.mark.parametrize("name", ["feature_size", "padding_side", "do_normalize", "hop_length", "max_lenght"])
def test_an_argument_that_would_do_nothing_is_refused(extractor: AudioMAEFeatureExtractor, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        AudioMAEFeatureExtractor(**{name: 64})
    for setting in (name, "mean", "padding_value", "num_mel_bins", "pad_to_multiple_of"):
        with pytest.raises(TypeError, match=setting):
            extractor(np.zeros(RATE), sampling_rate=RATE, **{setting: 64})


def test_a_calls_max_length_cuts_and_pads_to_it(extractor: AudioMAEFeatureExtractor) -> None:
    long, short = (np.random.default_rng(n).normal(0, 0.1, n) for n in (3 * RATE, 8000))
    whole = extractor(long, RATE, return_tensors="pt").input_values
    cut = extractor([long, short], RATE, truncation=True, max_length=64, return_tensors="pt")
    assert torch.equal(cut.input_values[:1], whole[:, :64]) and cut.attention_mask.sum(1).tolist() == [64, 48]
    odd = extractor(long, RATE, truncation=True, max_length=100, return_tensors="pt")  # the model takes whole patches
    assert odd.input_values.shape == (1, 112, 128) and odd.attention_mask.sum() == 100
    assert torch.equal(odd.input_values[:, :100], whole[:, :100])
    padded = extractor([long, short], RATE, padding="max_length", max_length=128, return_tensors="pt").input_values
    assert torch.equal(padded[:1], whole[:, :128]) and (padded[1, 48:] == np.float32(extractor.padding_value)).all()
    kept = extractor([long, short], RATE, padding="max_length", truncation=False, max_length=128, return_tensors="pt")
    assert kept.input_values.shape == (2, 304, 128)  # 298 frames: nothing is cut
    for options in ({"max_length": 64}, {"max_length": 0, "truncation": True}, {"max_length": 64, "padding": False}):
        with pytest.raises(ValueError, match=f"max_length={options['max_length']}"):
            extractor(long, RATE, **options)


def test_padding_value_is_the_one_given(tmp_path: Path) -> None:
    AudioMAEFeatureExtractor(padding_value=0.0).save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    rows = [extractor(np.ones(n) * 0.1, RATE, padding=False) for n in (RATE, 4000)]
    together = extractor([np.ones(RATE) * 0.1, np.ones(4000) * 0.1], RATE, return_tensors="pt")["input_values"]
    later = extractor.pad([{"input_values": row["input_values"][0]} for row in rows], return_tensors="pt")
    for padded in (together, later["input_values"]):
        assert (padded[1, 23:] == 0).all() and (padded[1, :23] != 0).any()


@pytest.mark.parametrize(
    ("frames", "fitted"), [(1, 16), (15, 16), (16, 16), (23, 16), (24, 32), (95, 96), (96, 96), (97, 97), (98, 98)]
)
def test_short_clips_are_resampled_to_the_nearest_number_of_whole_patches(frames: int, fitted: int) -> None:
    """NumPy's linear interpolation, bin by bin, from the first frame to the last; longer clips stay as they are."""
    wave = np.random.default_rng(frames).normal(0, 0.1, 400 + 160 * (frames - 1))
    wave *= np.linspace(0.1, 1, len(wave))
    padded, resampled = AudioMAEFeatureExtractor(), AudioMAEFeatureExtractor(resample_below=96)
    clip = padded(wave, RATE, return_tensors="np")
    mel = clip["input_values"][0, :frames]
    assert clip["attention_mask"].sum() == frames
    places = np.linspace(0, frames - 1, fitted)
    expected = np.stack([np.interp(places, np.arange(frames), values) for values in mel.T], axis=1)
    alone = resampled(wave, RATE, return_tensors="np")
    batch = resampled([wave, np.ones(16000) * 0.1], RATE, return_tensors="np")
    for found in (alone, batch):
        np.testing.assert_allclose(found["input_values"][0, :fitted], expected, atol=1e-4)
        np.testing.assert_allclose(found["input_values"][0, fitted:], padded.padding_value, rtol=1e-6)
    assert resampled(wave, RATE, padding=False)["input_values"][0].shape == (fitted, 128)
    assert alone["input_values"].shape[1] == -(-fitted // 16) * 16 and alone["attention_mask"].sum() == fitted
    assert batch["attention_mask"].sum(1).tolist() == [fitted, 98]
    # What Audio-MAE's own code pads stays so.
    same = [extractor(wave, RATE, padding="max_length")["input_values"][0] for extractor in (padded, resampled)]
    assert np.array_equal(*same)


def test_what_was_given_is_saved_and_comes_back(tmp_path: Path) -> None:
    """As transformers' common tests ask of every extractor."""
    given = {
        "sampling_rate": 8000, "num_mel_bins": 64, "max_length": 512, "patch_size": 8, "mean": -6.5, "std": 5.25,
        "std_factor": 1.0, "frame_length": 200, "frame_shift": 80, "low_frequency": 50.0, "preemphasis": 0.9,
        "return_attention_mask": False, "truncation": True, "fbank_backend": "torch", "padding_value": 0.25,
        "waveform_scale": 2.0, "remove_waveform_mean": False, "repeat_below": 300, "clip_samples": 8000,
        "pad_with_minimum": True, "time_stride": 4, "incomplete_patches": "drop", "resample_below": 96, "n_fft": 512,
        "window_type": "povey", "periodic_window": True, "center": True, "remove_frame_mean": False,
        "preemphasis_scope": "waveform", "power": 1.0, "mel_scale": "slaney", "mel_norm": "slaney",
        "high_frequency": 3500.0, "mel_floor": 0.0, "log_offset": 1e-5,
    }  # fmt: skip
    first = AudioMAEFeatureExtractor(**given)
    assert given.keys() == inspect.signature(AudioMAEFeatureExtractor).parameters.keys()
    assert json.loads(first.to_json_string()).items() >= given.items()
    first.to_json_file(tmp_path / "extractor.json")
    assert AudioMAEFeatureExtractor.from_json_file(tmp_path / "extractor.json").to_dict() == first.to_dict()
    first.save_pretrained(tmp_path)
    second = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert second.to_dict() == first.to_dict() and AudioMAEFeatureExtractor.from_dict(first.to_dict()).mean == -6.5


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """As version 0.1 first saved it: padding follows from the statistics, and feature_size says nothing."""
    saved = {
        "auto_map": {"AutoFeatureExtractor": "feature_extraction_audio_mae.AudioMAEFeatureExtractor"},
        "fbank_backend": "torch", "feature_extractor_type": "AudioMAEFeatureExtractor", "feature_size": 1,
        "frame_length": 400, "frame_shift": 160, "low_frequency": 20.0, "max_length": 1024, "mean": -5.0,
        "num_mel_bins": 128, "padding_side": "right", "padding_value": 5.0 / 8.0, "patch_size": 16,
        "preemphasis": 0.97, "return_attention_mask": True, "sampling_rate": 16000, "std": 4.0, "std_factor": 2.0,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(saved))
    return tmp_path


def test_files_of_older_versions_load_and_take_every_argument(old_folder: Path, caplog) -> None:
    load = AutoFeatureExtractor.from_pretrained
    plain = load(old_folder)
    assert (plain.mean, plain.padding_value, plain.feature_size, plain.truncation) == (-5.0, 0.625, 128, False)
    assert load(old_folder, truncation=True).truncation is True  # the file has no such field
    assert load(old_folder, mean=-6.0).padding_value == 0.75
    assert load(old_folder, mean=-6.0, padding_value=0.0).padding_value == 0.0
    assert not caplog.records
    _, unused = load(old_folder, maxlength=64, std=3.0, return_unused_kwargs=True)
    assert unused == {"maxlength": 64}
    load(old_folder, maxlength=64, trust_remote_code=True, dtype="auto")
    assert "has no maxlength: not used" in caplog.text


def test_a_file_with_a_setting_that_this_version_does_not_know_is_refused(old_folder: Path) -> None:
    file = old_folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"top_frequency": 7600.0}))
    with pytest.raises(ValueError, match="top_frequency, which AudioMAEFeatureExtractor does not know"):
        AutoFeatureExtractor.from_pretrained(old_folder)


@contextlib.contextmanager
def restored(setter, getter, value) -> Iterator[None]:
    before = getter()
    setter(value)
    try:
        yield
    finally:
        setter(before)


STATES = {
    **{str(dtype): lambda dtype=dtype: restored(torch.set_default_dtype, torch.get_default_dtype, dtype)
       for dtype in (torch.float64, torch.bfloat16, torch.float16)},
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "medium": lambda: restored(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_features_depend_on_no_global_state(state: str) -> None:
    """Nor does what is computed later, although the filters were first made in that state."""
    waves = [np.random.default_rng(n).normal(0, 0.1, n) for n in (9000, 4000)]

    def features() -> list[torch.Tensor]:
        extractor = AudioMAEFeatureExtractor()
        tensor = torch.from_numpy(waves[0].astype(np.float32))
        batches = [extractor(source, RATE, return_tensors="pt") for source in (waves, tensor)]
        none = FilterBank().log_mels(torch.zeros(1, 10, dtype=torch.float32, device="cpu"))
        return [value for batch in batches for value in batch.values()] + [none]

    expected = features()
    kaldi_mel_filters.cache_clear()
    with STATES[state]():
        inside = features()
    wave = torch.randn(1, 4000, requires_grad=True)
    FilterBank().log_mels(wave).sum().backward()
    assert wave.grad is not None and wave.grad.isfinite().all()
    for first, there, later in zip(expected, inside, features(), strict=True):
        assert there.dtype == first.dtype and there.device == first.device and torch.equal(later, first)
        torch.testing.assert_close(there, first, atol=1e-6, rtol=0)


FORKS = """
import multiprocessing, sys
import numpy as np
import torch

torch.set_num_threads(2)
product = torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # OpenMP's second thread starts
torch.nn.functional.conv2d(product[None, None], torch.randn(4, 1, 3, 3)).exp().sum()
wave = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
"""
INSTALLED = (
    FORKS
    + """
from datasets import Dataset
from transformers import AutoModel
from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, load_audio

embedder = AudioEmbedder.from_pretrained(sys.argv[1])
extractor = AudioMAEFeatureExtractor()

def use(row):
    return {"mean": [
        extractor(wave, sampling_rate=16000)["input_values"][0].mean(), np.abs(embedder.encode(wave)).mean(),
        load_audio(wave).mean(),
    ]}

expected = use({})["mean"]
rows = Dataset.from_dict({"row": [0, 1]}).map(use, num_proc=2)["mean"]
with multiprocessing.get_context("fork").Pool(2) as pool:
    rows = [*rows, *(row["mean"] for row in pool.map(use, [{}] * 2))]
np.testing.assert_allclose(rows, [expected] * 4, rtol=1e-3)
"""
)
REMOTE = (
    FORKS
    + """
sys.modules["uamix_hf"] = None
from transformers import AutoFeatureExtractor, AutoModel

extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()

def use(row):
    with torch.no_grad():
        return model(**extractor(wave, sampling_rate=16000, return_tensors="pt")).pooler_output.abs().mean().item()

with multiprocessing.get_context("fork").Pool(2) as pool:
    np.testing.assert_allclose(pool.map(use, range(2)), use(0), rtol=1e-3)
"""
)


@pytest.mark.parametrize(
    "code", [pytest.param(INSTALLED, id="installed"), pytest.param(REMOTE, id="remote code", marks=pytest.mark.slow)]
)
def test_forked_processes_do_not_wait_for_threads_that_the_fork_left_behind(code, tiny_config, tmp_path: Path) -> None:
    tiny_config.max_length = 1024
    AudioMAEModel(tiny_config).save_pretrained(tmp_path / "model")
    AudioMAEFeatureExtractor().save_pretrained(tmp_path / "model")
    environment = os.environ | {"OMP_NUM_THREADS": "2", "HF_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "model")], env=environment, start_new_session=True,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _, error = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and the children that hang
        process.communicate()
        pytest.fail("the forked processes hang")
    assert process.returncode == 0, error
