"""Front-ends of other systems against log-mels of their official code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor

from uamix_hf import AudioMAEFeatureExtractor
from uamix_hf.models.audio_mae.feature_extraction_audio_mae import FrontEndError
from uamix_hf.models.audio_mae.filter_banks_audio_mae import FilterBank
from uamix_hf.models.front_ends import FRONT_ENDS, front_end

KALDI, OTHERS = 1e-4, 1e-5
STATISTICS = {"mae_ast": {"mean": 0.0, "std": 1.0}}


def log_mel(extractor: AudioMAEFeatureExtractor, waveform: torch.Tensor) -> torch.Tensor:
    return extractor.log_mels([waveform])[0]


def inputs(extractor: AudioMAEFeatureExtractor, waveform: torch.Tensor, **options) -> torch.Tensor:
    batch = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt", **options)
    return batch.input_values[0]


@pytest.fixture
def official(fixtures: Path):
    return lambda system: load_file(fixtures / system / "frontend_io.safetensors")


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("system", ["beats", "openbeats"])
def test_beats(official, system: str) -> None:
    io, extractor = official("beats"), front_end(system)
    close(log_mel(extractor, io["waveform"]), io["fbank"], KALDI)
    close(inputs(extractor, io["waveform"], padding=False), io["input_values"][:208], KALDI)


def test_openbeats_statistics_are_arguments(fixtures: Path) -> None:
    io = load_file(fixtures / "openbeats" / "pretrained_io.safetensors")
    statistics = json.loads((fixtures / "openbeats" / "pretrained.json").read_text())["front_end"]
    extractor = front_end("openbeats", mean=statistics["mean"], std=statistics["std"])
    close(extractor.normalize(io["fbank"]), io["input_values"], KALDI)


def test_openbeats_repeats_short_clips() -> None:
    wave = torch.randn(1500, generator=torch.Generator().manual_seed(0)) * 0.1
    extractor = front_end("openbeats")
    assert torch.equal(log_mel(extractor, wave), log_mel(extractor, wave.repeat(3)))
    assert len(log_mel(extractor, wave)) == 26 and len(log_mel(front_end("beats"), wave)) == 7


def test_mae_ast(official) -> None:
    io = official("mae_ast")
    std = (io["running_var"] + 1e-5).sqrt().item()
    extractor = front_end("mae_ast", mean=io["running_mean"].item(), std=std)
    close(log_mel(extractor, io["waveform"]), io["fbank"], KALDI)
    close(inputs(extractor, io["waveform"], padding=False), io["input_values"][:208], KALDI)


def test_asit(official) -> None:
    io, extractor = official("asit"), front_end("asit")
    close(log_mel(extractor, io["waveform"]), io["fbank"], KALDI)
    close(inputs(extractor, io["waveform"], padding="max_length"), io["input_values_6s"], KALDI)
    given = inputs(extractor, io["waveform"], padding="max_length", max_length=592)
    close(given, io["input_values_from_short_clip"], KALDI)


def test_birdmae(official) -> None:
    io, extractor = official("birdmae"), front_end("birdmae")
    close(inputs(extractor, io["waveform"], padding="max_length"), io["input_values"], KALDI)
    close(inputs(extractor, io["long.waveform"], padding="max_length"), io["long.input_values"], KALDI)
    alone = [inputs(extractor, io[name], padding="max_length") for name in ("waveform", "long.waveform")]
    both = extractor([io["waveform"], io["long.waveform"]], 32_000, padding="max_length", return_tensors="pt")
    assert torch.equal(both.input_values, torch.stack(alone))  # official for one clip at a time
    close(alone[0][-1], torch.full((128,), extractor.padding_value), KALDI)


def test_passt(official) -> None:
    io, extractor = official("passt"), front_end("passt")
    close(log_mel(extractor, io["waveform"]), io["log_mel"].T, OTHERS)
    close(inputs(extractor, io["waveform"]), io["input_values"].T[:296], OTHERS)
    assert torch.equal(extractor.filter_bank.filters(torch.device("cpu")), io["mel_filters"].T)


def test_matpac(official) -> None:
    io, extractor = official("matpac"), front_end("matpac")
    close(log_mel(extractor, io["waveform"]), io["log_mel"].T, OTHERS)
    values = inputs(extractor, io["waveform"])
    close(values[:223], io["input_values"].T, OTHERS)
    assert values.shape == (224, 80) and (values[223] == 0).all()
    close(extractor.filter_bank.filters(torch.device("cpu")), io["mel_filters"], 1e-7)


@pytest.mark.parametrize("system", ["audiomae", "passt", "matpac"])
def test_log_mels_of_a_padded_batch_are_those_of_its_clips(system: str) -> None:
    """As they are computed on a GPU."""
    bank = front_end(system).filter_bank
    waves = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (20_000, 9000)]
    prepared = [bank.prepare(wave) for wave in waves]
    together = bank.log_mels(torch.nn.utils.rnn.pad_sequence(prepared, batch_first=True))
    for row, wave, ready in zip(together, waves, prepared, strict=True):
        alone = bank.log_mels(ready[None])[0]
        assert len(alone) == bank.frames(len(wave))
        close(row[: len(alone)], alone, OTHERS)


@pytest.mark.parametrize("system", ["audiomae", "ssast", "ssamba"])
def test_the_other_systems_have_the_front_end_of_audio_mae(system: str) -> None:
    assert front_end(system).to_dict() == AudioMAEFeatureExtractor().to_dict()


def test_htk_filters_are_triangles_in_hertz() -> None:
    bank = FilterBank(num_mel_bins=8, mel_scale="htk", low_frequency=100.0, high_frequency=4000.0)
    mels = np.linspace(*(2595 * np.log10(1 + hertz / 700) for hertz in (100, 4000)), 10)
    corners = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.arange(257) * 16_000 / 512
    expected = [np.interp(frequencies, corners[i : i + 3], [0, 1, 0]) for i in range(8)]
    np.testing.assert_allclose(bank.filters(torch.device("cpu")), np.array(expected).T, atol=1e-4)


def test_magnitudes_are_roots_of_powers() -> None:
    wave = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    flat = {"num_mel_bins": 1, "mel_floor": 0.0, "log_offset": 1e-9}
    spectrum = torch.fft.rfft(wave[0, :400] * torch.hann_window(400, periodic=False), n=512).abs()
    bank = FilterBank(power=1.0, remove_frame_mean=False, preemphasis=0.0, **flat)
    expected = (spectrum @ bank.filters(torch.device("cpu"))).log()
    close(bank.log_mels(wave)[0, 0], expected, 1e-4)


@pytest.mark.parametrize("system", FRONT_ENDS)
def test_settings_are_saved_and_shortest_waveforms_are_counted(system: str, tmp_path: Path) -> None:
    extractor = front_end(system, **STATISTICS.get(system, {}))
    extractor.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()
    bank = extractor.filter_bank
    for frames in (4, 50):
        samples = bank.samples(frames)
        assert bank.frames(samples) == frames and bank.frames(samples - 1) == frames - 1
        wave = torch.randn(max(samples, 3200), generator=torch.Generator().manual_seed(0))
        assert len(log_mel(extractor, wave)) == bank.frames(len(wave))
    assert len(log_mel(extractor, torch.ones(1))) >= 1


def test_overlapping_patches_are_padded_and_dropped_in_whole_patches() -> None:
    waves = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (96_000, 60_000, 3000)]
    for rule, frames in (("drop", 296), ("pad", 306)):
        extractor = front_end("passt", incomplete_patches=rule)
        batch = extractor(waves, 32_000, return_tensors="pt")
        assert batch.input_values.shape == (3, frames, 128)
        lengths = {"drop": [296, 186, 10], "pad": [300, 188, 10]}[rule]
        assert batch.attention_mask.sum(1).tolist() == lengths
        rows = [extractor(wave, 32_000, padding=False) for wave in waves]
        later = extractor.pad([{"input_values": row["input_values"][0]} for row in rows], return_tensors="pt")
        assert torch.equal(later["input_values"], batch.input_values)
        assert later["attention_mask"].sum(1).tolist() == lengths


def test_clips_are_resampled_to_whole_patches_that_overlap() -> None:
    """Patches of 16 frames, 10 from one to the next: 16, 26, 36 frames."""
    extractor = front_end("passt", resample_below=50)
    waves = [np.random.default_rng(frames).normal(size=320 * frames) for frames in (3, 19, 23, 31, 33, 54)]
    masks = extractor(waves, 32_000, return_tensors="pt").attention_mask
    assert masks.sum(1).tolist() == [16, 16, 26, 36, 36, 46]  # the last one is cut


def test_a_mask_that_is_asked_for_leaves_added_silence_out() -> None:
    extractor = front_end("birdmae")
    options = {"padding": "max_length", "return_attention_mask": True, "return_tensors": "pt"}
    masks = extractor([np.ones(32_000) * 0.1, np.ones(200_000) * 0.1], 32_000, **options).attention_mask
    assert masks.sum(1).tolist() == [98, 498]


@pytest.mark.parametrize(
    "settings,says",
    [
        ({"n_fft": 256}, "n_fft=256.*frame_length=400"),
        ({"low_frequency": 9000.0}, "low_frequency=9000.0 to high_frequency=8000.0"),
        ({"high_frequency": 9000.0}, "Nyquist frequency, 8000 Hz"),
        ({"mel_floor": 0.0}, "mel_floor=0.0 and log_offset=0.0"),
        ({"mel_norm": "slaney"}, "mel_norm='slaney'"),
        ({"mel_scale": "bark"}, "mel_scale='bark'.*'htk'"),
        ({"window_type": "hamming"}, "window_type='hamming'"),
        ({"frame_shift": 0}, "frame_shift=0"),
        ({"time_stride": 20}, "time_stride=20.*patch_size=16"),
        ({"incomplete_patches": "keep"}, "incomplete_patches='keep'"),
        ({"resample_below": -1}, "resample_below=-1"),
        ({"fbank_backend": "torchaudio", "center": True}, "torchaudio"),
        ({"fbank_backend": "kaldi"}, "fbank_backend='kaldi'"),
    ],
)
def test_settings_that_contradict_each_other_are_typed_errors(settings: dict, says: str) -> None:
    with pytest.raises(FrontEndError, match=says):
        AudioMAEFeatureExtractor(**settings)


def test_unknown_systems_and_missing_statistics_are_typed_errors() -> None:
    with pytest.raises(FrontEndError, match="No front-end 'ast'; there are asit"):
        front_end("ast")
    with pytest.raises(FrontEndError, match="mae_ast has no common mean and std"):
        front_end("mae_ast")
    with pytest.raises(TypeError, match="hop_length"):
        front_end("beats", hop_length=160)
