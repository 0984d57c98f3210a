"""Batches of waveforms for fine-tuning: shifts, gains, mixup, masks and FixMatch's strong views of samples."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from uamix_hf.data import FeatureCollator
from uamix_hf.fine_tuning import FineTuningArguments, FixMatchArguments
from uamix_hf.fine_tuning.batches import FineTuningCollator
from uamix_hf.fine_tuning.fixmatch import FixMatchCollator
from uamix_hf.models.waveform_frames import WaveformFrames

FRONT_END = WaveformFrames(max_length=200)
PLAIN = {"roll": False, "gain_alpha": 0, "mixup_probability": 0, "time_mask_fraction": 0, "mel_mask_fraction": 0}


def rows(*lengths: int, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"features": torch.randn(length, 160, generator=generator), "sample_id": number, "visit": (0, 0),
         "labels": torch.tensor(number)}
        for number, length in enumerate(lengths)
    ]  # fmt: skip


@pytest.fixture
def arguments(tmp_path):
    return lambda **more: FineTuningArguments(str(tmp_path), use_cpu=True, report_to="none", **{**PLAIN, **more})


def test_without_augmentation_waveforms_are_padded_with_silence(arguments) -> None:
    clips = rows(51, 30)
    batch = FineTuningCollator(FRONT_END, 200, arguments(), 2)(clips)
    assert batch["attention_mask"].sum(1).tolist() == [51, 30]
    for row, clip in enumerate(clips):
        length = len(clip["features"])
        assert torch.equal(batch["input_values"][row, :length], clip["features"])
        assert (batch["input_values"][row, length:] == 0).all()


def test_gain_multiplies_and_the_shift_is_circular(arguments) -> None:
    clips = rows(*[40] * 12)
    batch = FeatureCollator(FRONT_END, 200, normalize=True, gain_alpha=10.0)(clips)
    gains = batch["input_values"][:, :40] / torch.stack([clip["features"] for clip in clips])
    torch.testing.assert_close(gains, gains[:, :1, :1].expand_as(gains))
    assert gains.min() > 0.5 and gains.max() < 1.5 and len(gains[:, 0, 0].unique()) == 12
    batch = FeatureCollator(FRONT_END, 200, normalize=True, roll=True)(clips)
    for clip, shifted in zip(clips, batch["input_values"], strict=True):
        places = [clip["features"].roll(offset, 0) for offset in range(40)]
        assert sum(torch.equal(shifted[:40], place) for place in places) == 1


def test_mixtures_and_their_labels_are_weighted_sums(arguments) -> None:
    clips = rows(60, 40)
    batch = FineTuningCollator(FRONT_END, 200, arguments(mixup_probability=1, mixup_alpha=1.0), 2)(clips)
    one, other = clips[0]["features"], torch.nn.functional.pad(clips[1]["features"], (0, 0, 0, 20))
    for row, label in enumerate(batch["labels"]):
        expected = label[0] * one + label[1] * other
        torch.testing.assert_close(batch["input_values"][row, :60], expected, atol=1e-5, rtol=0)
    assert 0 < batch["labels"][0, 0] < 1


def test_masks_silence_a_segment(arguments) -> None:
    batch = FineTuningCollator(FRONT_END, 200, arguments(time_mask_fraction=0.5), 2)(rows(*[100] * 8))
    silent = (batch["input_values"][:, :100] == 0).all(2).sum(1)
    assert silent.max() <= 50 and silent.max() > 20


def test_fixmatchs_strong_views_are_other_waveforms_of_the_same_length(arguments) -> None:
    clips = rows(80, 50, 64, seed=1)
    unlabelled = Dataset.from_list([{"features": row["features"].tolist(), "sample_id": 0} for row in clips])
    made = arguments(), 2, FixMatchArguments(unlabelled_ratio=1), unlabelled.with_format("torch")
    collator = FixMatchCollator(FRONT_END, 200, *made)
    assert collator.strong_resize_mel == 1.0
    batch = collator(rows(40, 60, 30))
    weak, strong = batch["weak"], batch["strong"]
    assert torch.equal(weak["attention_mask"], strong["attention_mask"])
    valid = weak["attention_mask"].bool()
    assert strong["input_values"].isfinite().all() and (strong["input_values"][~valid] == 0).all()
    ratio = strong["input_values"][valid].square().mean() / weak["input_values"][valid].square().mean()
    assert 0.2 < ratio < 5
    assert not torch.allclose(strong["input_values"], weak["input_values"], atol=0.1)


def test_a_stretch_in_frequency_is_refused_by_name(arguments) -> None:
    unlabelled = Dataset.from_dict({"features": [np.zeros((4, 160)).tolist()], "sample_id": [0]})
    with pytest.raises(ValueError, match=r"strong_resize_mel=1\.2: a waveform has no mel bins"):
        FixMatchCollator(FRONT_END, 200, arguments(), 2, FixMatchArguments(strong_resize_mel=1.2), unlabelled)
