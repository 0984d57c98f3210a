"""The front end of encoders of waveforms: samples stay as they are, in frames, cached as those of log-mels are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from uamix_hf import AudioInputError, DataError, compute_norm_stats, load_audio
from uamix_hf.data import cached_features
from uamix_hf.data.batches import FeatureCollator
from uamix_hf.data.recordings import load_recordings
from uamix_hf.models.waveform_frames import WaveformFrames


def test_samples_come_back_as_they_were() -> None:
    wave = torch.randn(1000)
    (features,) = WaveformFrames(frame_shift=160).raw_features([wave])
    assert features.shape == (7, 160) and features.dtype == torch.float32
    assert torch.equal(features.flatten()[:1000], wave) and not features.flatten()[1000:].any()
    (exact,) = WaveformFrames(frame_shift=160).raw_features([(wave * 1000).to(torch.int16)[:800]])
    assert exact.shape == (5, 160) and exact.abs().max() < 1


def test_a_batch_is_padded_to_whole_tokens() -> None:
    front_end = WaveformFrames(frame_shift=4, patch_size=3, time_stride=2)
    batch = front_end([np.ones(2), np.ones(13)], sampling_rate=16_000, return_tensors="pt")
    assert batch["input_values"].shape == (2, 5, 4)  # two tokens, of frames 0 to 2 and 2 to 4
    assert batch["attention_mask"].tolist() == [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert batch["input_values"].sum((1, 2)).tolist() == [2, 13]
    assert [front_end.whole_patches(frames) for frames in (1, 3, 4, 5, 6)] == [3, 3, 5, 5, 7]
    assert [front_end.whole_patches(frames, up=False) for frames in (1, 3, 4, 5, 6)] == [3, 3, 3, 5, 5]
    assert front_end.samples(5) == 20
    lists = front_end(np.ones(13, np.float32), sampling_rate=16_000, return_attention_mask=False)
    assert list(lists) == ["input_values"] and np.array_equal(lists["input_values"][0], batch["input_values"][1])


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    front_end = WaveformFrames(24_000, 160, 5, 4, 4500, do_normalize=False)
    front_end.save_pretrained(tmp_path)
    again = WaveformFrames.from_pretrained(tmp_path)
    assert again.to_json_string() == front_end.to_json_string() and vars(again) == vars(front_end)
    assert WaveformFrames.from_pretrained(tmp_path, max_length=8).max_length == 8
    with pytest.raises(ValueError, match="do_normalise"):
        WaveformFrames.from_dict(front_end.to_dict() | {"do_normalise": True})


def test_what_cannot_be_used_is_refused() -> None:
    front_end = WaveformFrames()
    with pytest.raises(AudioInputError, match="44100 Hz.*16000 Hz"):
        front_end(np.ones(99), sampling_rate=44_100)
    with pytest.raises(AudioInputError, match="reaches 1e\\+05"):
        front_end.raw_features([np.full(99, 1e5)])
    with pytest.raises(AudioInputError, match="NaN"):
        front_end.raw_features([np.full(99, np.nan)])
    for wrong in ({"frame_shift": 0}, {"max_length": 0}, {"time_stride": 0}, {"patch_size": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            WaveformFrames(**wrong)


def test_the_cache_holds_samples_to_float16(esc10: Path) -> None:
    recordings = load_recordings([str(esc10)]).select(range(3))
    front_end = WaveformFrames()
    cached = cached_features(recordings, front_end).dataset
    assert cached.column_names == ["features", "length", "sample_id"] and len(cached) == 3
    collator = FeatureCollator(front_end, 400, normalize=True)
    batch = collator([cached[row] for row in range(3)])
    assert batch["input_values"].shape == (3, 401, 160) and batch["attention_mask"].sum().item() == 1200
    for row in range(3):
        wave = load_audio(recordings[row]["audio"], 16_000)
        stored = cached[row]["features"].flatten().float().numpy()[: len(wave)]
        # Half a step of float16: 2**-11 of a sample, and 2**-25 where it is subnormal.
        assert np.all(np.abs(stored - wave) <= np.maximum(np.abs(wave) * 2.0**-11, 2.0**-25))


def test_waveforms_have_no_statistics() -> None:
    with pytest.raises(DataError, match="WaveformFrames makes waveforms"):
        compute_norm_stats([np.ones(999)], WaveformFrames())
