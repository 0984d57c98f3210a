"""Augmentations of log-mels against closed forms: pace and pitch of a crop, power of a background, curves, noise."""

import math

import pytest
import torch

from uamix_hf.training.log_mel_augmentations import (
    random_background,
    random_equalizer,
    random_noise,
    random_resized_crop,
)


def test_a_resized_crop_is_a_stretch_of_its_own_clip_at_another_pace():
    """Values of a ramp in time tell where each frame of the view comes from; a second ramp does for the bins."""
    torch.manual_seed(0)
    clips, length, size, bins = 2000, 100, 64, 32
    place = torch.arange(length + 12).float()
    time = place[None, :, None].expand(clips, -1, bins).masked_fill((place >= length)[:, None], 1e6)
    lengths, sizes = torch.full((clips,), length), torch.full((clips,), size)
    view = random_resized_crop(time, lengths, sizes, 1.25, 1.0)
    assert view.shape == (clips, size, bins)
    assert view.min() >= 0 and view.max() <= length - 1 + 1e-3  # nothing of what lies beyond the clip
    zoom = (view[:, -1, 0] - view[:, 0, 0] + 1) / size
    assert zoom.min() >= 0.8 - 1e-4 and zoom.max() <= 1.25 + 1e-4
    # log-uniform between 1 / 1.25 and 1.25
    assert zoom.log().mean().item() == pytest.approx(0, abs=4 * math.log(1.25) / (3 * clips) ** 0.5)
    assert (zoom.log() > math.log(1.25) / 2).float().mean().item() == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(view.diff(dim=1), ((zoom * size - 1) / (size - 1))[:, None, None].expand(-1, 63, bins),
                               atol=1e-3, rtol=0)  # fmt: skip
    assert (view[:, 0, 0] < 2).any() and (view[:, -1, 0] > length - 3).any()  # anywhere in the clip

    mel = torch.arange(bins).float().expand(clips, length + 12, bins)
    view = random_resized_crop(mel, lengths, sizes, 1.0, 1.5)
    torch.testing.assert_close(view, view[:, :1].expand(-1, size, -1))  # the same for all frames
    row = view[:, 0]
    assert row.min() >= 0 and row.max() <= bins - 1
    steps = row.diff(dim=1)
    assert steps.min() > -1e-4 and steps.max() <= (1.5 * bins - 1) / (bins - 1) + 1e-3
    inner = steps[:, bins // 2 - 2 : bins // 2 + 2].mean(dim=1)
    assert inner.min() < 0.75 and inner.max() > 1.35


def test_without_a_factor_a_resized_crop_of_the_whole_clip_is_the_clip():
    clips = torch.randn(3, 48, 16)
    whole = random_resized_crop(clips, torch.full((3,), 48), torch.full((3,), 48), 1.0, 1.0)
    torch.testing.assert_close(whole, clips, atol=1e-4, rtol=1e-4)


def test_a_background_is_another_clip_of_the_batch_added_as_power():
    torch.manual_seed(0)
    powers = torch.tensor([1.0, 100.0, 10_000.0])
    others, shares = set(), []
    for _ in range(300):
        mixed = random_background(powers.log()[:, None, None].expand(-1, 4, 2), torch.full((3,), 4), 0.4).exp()
        assert torch.allclose(mixed, mixed[:, :1, :1].expand_as(mixed), rtol=1e-4)
        found = mixed[:, 0, 0]
        for row in range(3):
            for other in range(3):
                share = ((found[row] - powers[row]) / (powers[other] - powers[row])).item()
                if other != row and -1e-4 <= share <= 0.4 + 1e-4:
                    others.add((row, other))
                    shares.append(share)
    assert {(0, 2), (0, 1), (1, 0), (1, 2), (2, 0), (2, 1)} <= others
    assert max(shares) > 0.38 and min(shares) < 0.02


def test_an_equalizer_is_one_curve_over_the_bins_for_a_whole_view():
    torch.manual_seed(0)
    clips = torch.randn(4000, 3, 32)
    change = random_equalizer(clips, torch.full((4000,), 3), 6.0) - clips
    torch.testing.assert_close(change, change[:, :1].expand(-1, 3, -1), atol=1e-5, rtol=0)
    decibels = change[:, 0] * 10 / math.log(10)
    assert decibels.abs().max() <= 6 + 1e-4
    # The first and the last bin are uniform in +-6 dB; neighbouring bins are much alike.
    for bin in (0, 31):
        assert decibels[:, bin].mean().item() == pytest.approx(0, abs=4 * (12 / 4000) ** 0.5)
        assert decibels[:, bin].var().item() == pytest.approx(12, rel=0.1)
    assert (decibels.diff(dim=1).abs() <= 12 * 5 / 31 + 1e-4).all()


def test_noise_adds_power_at_the_wanted_level():
    """Of steady clips of very different loudness, the second of which is half padding that must not count."""
    torch.manual_seed(0)
    clips = torch.tensor([-12.0, 3.0]).repeat(200)[:, None, None].expand(-1, 600, 16).clone()
    lengths = torch.tensor([600, 300]).repeat(200)
    for row, length in enumerate(lengths.tolist()):
        clips[row, length:] = 40.0
    noisy = random_noise(clips, lengths, 5.0)
    snr = []
    for row, length in enumerate(lengths.tolist()):
        power, total = clips[row, :length].double().exp(), noisy[row, :length].double().exp()
        snr.append(10 * math.log10(power.mean() / (total - power).mean()))
    assert (noisy >= clips).all()
    snr = torch.tensor(snr)
    assert snr.min() > 5 - 0.5 and snr.max() < 35 + 0.5
    for loudness in (snr[::2], snr[1::2]):
        assert loudness.mean().item() == pytest.approx(20, abs=4 * (30**2 / 12 / 200) ** 0.5)


def test_noise_is_stationary_of_a_spectrum_of_its_own():
    torch.manual_seed(0)
    noisy = random_noise(torch.full((2, 4000, 16), -9.0), torch.tensor([4000, 4000]), -40.0)  # nothing but noise
    early, late = (noisy[:, part].exp().mean(1).log() for part in (slice(0, 2000), slice(2000, 4000)))
    torch.testing.assert_close(early, late, atol=0.15, rtol=0)
    shape = early - early.mean(1, keepdim=True)
    assert (shape[0] - shape[1]).abs().max() > 0.3
    assert (noisy[:, 1:] != noisy[:, :-1]).all()


def test_a_background_that_ends_earlier_is_silent_from_there_on():
    torch.manual_seed(0)
    clips, lengths = torch.zeros(2, 8, 3), torch.tensor([8, 5])  # padding of 0 is as loud as the clips
    mixed = torch.stack([random_background(clips, lengths, 0.9) for _ in range(50)])
    own = mixed[:, 0, 0, 0]
    torch.testing.assert_close(own, torch.zeros(50))  # equally loud sounds mix to the same power
    assert (mixed[:, 0, 5:] <= 1e-6).all() and mixed[:, 0, 5:].min() < -0.5  # what is left of the clip itself
