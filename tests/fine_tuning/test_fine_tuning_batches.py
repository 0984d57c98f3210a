"""Augmentation against waveforms and counts; every class equally often."""

import numpy as np
import pytest
import torch
from toy_sounds import EXTRACTOR

from uamix_hf import AudioMAEFeatureExtractor
from uamix_hf.fine_tuning import FineTuningArguments
from uamix_hf.fine_tuning.batches import ClassBalancedSampler, FineTuningCollator, class_weights
from uamix_hf.training.log_mel_augmentations import mask_clip, mix_clips

WIDE = AudioMAEFeatureExtractor()


@pytest.fixture
def collate(tmp_path):
    """`collate(rows, epoch=0, classes=3, max_frames=64, **arguments)`: a batch."""

    def collate(rows, epoch=0, classes=3, max_frames=64, **arguments):
        plain = {
            "roll": False,
            "gain_alpha": 0,
            "mixup_probability": 0,
            "time_mask_fraction": 0,
            "mel_mask_fraction": 0,
        }
        args = FineTuningArguments(str(tmp_path), use_cpu=True, report_to="none", **{**plain, **arguments})
        return FineTuningCollator(EXTRACTOR, max_frames, args, classes)([{**row, "visit": (epoch, 0)} for row in rows])

    return collate


def rows(*lengths: int, labels=None, level: float = -5.0) -> list[dict]:
    """Log-mels without a value of 0, so that masks show."""
    labels = torch.arange(len(lengths)) if labels is None else labels
    return [
        {"features": torch.full((length, 32), level - number), "sample_id": number, "labels": labels[number]}
        for number, length in enumerate(lengths)
    ]


# --- SpecAugment


@pytest.mark.parametrize("frames", [3, 30, 998])
def test_masks_are_one_stretch_and_one_band_within_their_shares(frames):
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(300):
        masked = mask_clip(torch.full((frames, 128), -5.0), 0.1875, 0.375, rng) == 0
        times, bins = masked.all(dim=1), masked.all(dim=0)
        assert torch.equal(masked, times[:, None] | bins)
        for axis in (times, bins):
            edges = axis.int().diff(prepend=torch.zeros(1), append=torch.zeros(1)).abs().sum()
            assert edges in (0, 2)  # nothing, or one piece
        widths.append((int(times.sum()), int(bins.sum())))
    widest = np.max(widths, axis=0)
    assert widest[0] <= 0.1875 * frames and widest[1] <= 0.375 * 128
    assert widest[0] >= 0.17 * frames - 1 and widest[1] >= 46  # and they are reached
    assert np.min(widths) == 0


def test_masks_and_their_places_are_drawn_evenly():
    rng = np.random.default_rng(0)
    counts = sum((mask_clip(torch.full((40, 128), -5.0), 0.5, 0, rng) == 0).all(dim=1).int() for _ in range(4000))
    assert counts[0] < counts[10:30].min() and counts[-1] < counts[10:30].min()  # fewer windows reach the ends
    assert np.ptp(counts[12:28].numpy()) < 0.2 * counts.max()
    assert counts.sum() / 4000 == pytest.approx(10, abs=0.4)  # uniform from 0 to 20


def test_masks_cover_sound_alone_and_become_what_silence_is_after_normalising(collate):
    silence = EXTRACTOR.normalize(torch.zeros(1)).item()
    for epoch in range(40):
        batch = collate(rows(20, 48), epoch, time_mask_fraction=0.5, mel_mask_fraction=0.5)
        values, mask = batch["input_values"], batch["attention_mask"]
        assert torch.allclose(values[0, 20:], torch.full((28, 32), silence))  # padding is as it was
        masked = torch.isclose(values[0, :20], torch.tensor(silence))
        assert masked.all(dim=1).sum() <= 10 and masked.all(dim=0).sum() <= 16
        assert mask.sum(1).tolist() == [20, 48]


# --- mixup


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_mixed_log_mels_are_those_of_mixed_waveforms_but_for_the_product(share):
    """Of independent noise: no more than 0.307 apart in the mean, which is the expectation where a mel bin holds a
    single Fourier bin and shares are equal; bins that hold several are nearer."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(5):
        one, other = (rng.normal(0, 0.1, 16_000).astype(np.float32) for _ in range(2))
        mels = WIDE.log_mels([one, other, (share * one + (1 - share) * other).astype(np.float32)])
        differences.append(mix_clips(mels[0], mels[1], share) - mels[2])
    difference = torch.stack(differences)
    assert 0 < difference.mean() < 0.2  # the logarithm is concave, so the product lowers its mean
    assert difference[..., :20].mean() < 0.307
    assert difference[..., 64:].mean() < difference[..., :20].mean()


def test_tones_apart_mix_exactly():
    time = np.arange(16_000) / 16_000
    low, high = (0.1 * np.sin(2 * np.pi * pitch * time) for pitch in (500, 3000))
    mels = WIDE.log_mels([wave.astype(np.float32) for wave in (low, high, 0.3 * low + 0.7 * high)])
    mixed = mix_clips(mels[0], mels[1], 0.3)
    loud = mels[2] > mels[2].max() - 8
    assert loud.float().mean() > 0.03
    torch.testing.assert_close(mixed[loud], mels[2][loud], atol=2e-3, rtol=0)


def test_the_shorter_sound_is_silent_after_its_end():
    rng = np.random.default_rng(1)
    one, other = (rng.normal(0, 0.1, size).astype(np.float32) for size in (16_000, 4000))
    mels = WIDE.log_mels([one, other])
    for first, second, share in ((mels[0], mels[1], 0.6), (mels[1], mels[0], 0.4)):
        mixed = mix_clips(first, second, share)
        assert len(mixed) == len(mels[0]) and mixed.isfinite().all()
        torch.testing.assert_close(mixed[len(mels[1]) :], mels[0][len(mels[1]) :] + 2 * np.log(0.6))


def test_labels_are_mixed_in_the_shares_of_the_sounds(collate):
    """Levels are so far apart that the share shows in the sound: of the louder, alone, 2 ln share is lost."""
    quiet = -60.0
    found = []
    for epoch in range(60):
        given = rows(16, 16, level=-5.0)
        given[1]["features"] = torch.full((16, 32), quiet)
        batch = collate(given, epoch, mixup_probability=1.0, mixup_alpha=10.0)
        raw = batch["input_values"] * 2 * EXTRACTOR.std + EXTRACTOR.mean
        # In row 0 the loud clip has the first share, in row 1 the second.
        shares = ((raw[:, 0, 0] + 5.0) / 2).exp()
        torch.testing.assert_close(batch["labels"][:, 0], shares, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(batch["labels"].sum(1), torch.ones(2))
        found += batch["labels"][0, :1].tolist()
    # Beta(10, 10) has mean 1/2 and variance 1/84.
    assert np.mean(found) == pytest.approx(0.5, abs=4 * (1 / 84 / 60) ** 0.5)
    assert 0.5 * (1 / 84) < np.var(found) < 2 * (1 / 84)


@pytest.mark.parametrize(
    "labels, expected",
    [
        (torch.tensor([[1.0, 0.0], [1.0, 1.0]]), lambda share: [1.0, 1 - share]),
        (torch.tensor([10.0, 20.0]), lambda share: 10 * share + 20 * (1 - share)),
    ],
)
def test_several_labels_and_numbers_are_mixed_too(collate, labels, expected):
    batch = collate(rows(16, 16, labels=labels), classes=None, mixup_probability=1.0)
    single = collate(rows(16, 16), mixup_probability=1.0)["labels"]
    torch.testing.assert_close(batch["labels"][0], torch.tensor(expected(single[0, 0].item())))


def test_as_many_clips_are_mixed_as_asked_for_and_never_with_themselves(collate):
    mixed = 0
    for epoch in range(60):
        labels = collate(rows(16, 16, 16, 16, 16), epoch, classes=5, mixup_probability=0.3)["labels"]
        others = labels - torch.diag(labels.diagonal())
        mixed += int((others > 0).any(dim=1).sum())
        assert ((others > 0).sum(1) <= 1).all()
    assert mixed / 300 == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 300) ** 0.5)
    alone = collate(rows(16), mixup_probability=1.0)
    assert alone["labels"].tolist() == [[1.0, 0.0, 0.0]]
    assert collate(rows(16, 16))["labels"].tolist() == [0, 1]  # class numbers where nothing is mixed


def test_a_batch_that_comes_again_is_augmented_anew_but_for_the_same_epoch_and_seed(collate):
    everything = {"roll": True, "gain_alpha": 10.0, "mixup_probability": 1.0, "time_mask_fraction": 0.5}
    first = collate(rows(20, 30), epoch=3, **everything)
    torch.manual_seed(9)
    again = collate(rows(20, 30), epoch=3, **everything)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    for other in ({"epoch": 4}, {"epoch": 3, "seed": 7}):
        assert not torch.equal(collate(rows(20, 30), **other, **everything)["input_values"], first["input_values"])


# --- balanced classes

IMBALANCED = np.array([0] * 60 + [1] * 30 + [2] * 10)


def drawn(sampler: ClassBalancedSampler, epoch: int) -> np.ndarray:
    sampler.set_epoch(epoch)
    return np.array(list(sampler))


def test_every_class_is_drawn_equally_often_and_every_clip_in_time():
    lengths = np.random.default_rng(0).integers(10, 500, 100)
    sampler = ClassBalancedSampler(lengths, IMBALANCED, batch_size=8, seed=1)
    total = np.zeros(100, int)
    for epoch in range(12):
        rows = drawn(sampler, epoch)
        assert len(rows) == len(sampler) == 100
        counts = np.bincount(IMBALANCED[rows], minlength=3)
        assert counts.min() >= 33 and counts.max() <= 34
        times = np.bincount(rows, minlength=100)
        assert set(times[IMBALANCED == 2]) <= {3, 4} and set(times[IMBALANCED == 0]) <= {0, 1}
        total += times
    assert total.min() >= 1
    assert total[IMBALANCED == 0].mean() == pytest.approx(12 * 100 / 3 / 60, rel=0.05)


def test_the_balanced_order_depends_on_seed_and_epoch_alone_and_batches_hold_neighbours_in_length():
    lengths = np.random.default_rng(0).integers(10, 500, 100)
    sampler = ClassBalancedSampler(lengths, IMBALANCED, batch_size=10, seed=1)
    first = drawn(sampler, 2)
    torch.manual_seed(5)
    again = ClassBalancedSampler(lengths, IMBALANCED, batch_size=10, seed=1)
    assert drawn(again, 2).tolist() == first.tolist() != drawn(again, 3).tolist()
    assert drawn(ClassBalancedSampler(lengths, IMBALANCED, 10, seed=2), 2).tolist() != first.tolist()
    batches = sorted(np.sort(lengths[first[start : start + 10]]).tolist() for start in range(0, 100, 10))
    assert all(one[-1] <= other[0] for one, other in zip(batches, batches[1:], strict=False))


def test_clips_of_several_classes_have_their_share_of_each():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
    shares, _ = class_weights(labels)
    # Four groups, the clip without any class being one: a quarter of the draws each.
    expected = np.array([1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 1, 1]) / 4
    np.testing.assert_allclose(shares, expected)
    sampler = ClassBalancedSampler([16] * 4, labels, batch_size=4)
    total = sum(np.bincount(drawn(sampler, epoch), minlength=4) for epoch in range(300))
    np.testing.assert_allclose(total / 1200, expected, atol=0.03)
