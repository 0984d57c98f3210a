"""Augmentations of waveforms against closed forms: tones, powers and responses measured by FFT."""

import math

import numpy as np
import pytest
import torch

from uamix_hf.training import waveform_augmentations as waveforms
from uamix_hf.training.augmentations import random_gain, two_views
from uamix_hf.tuning import UaMixConfig

FRAME = 160
RATE = 16_000


def tone(hertz: float, frames: int, amplitude: float = 1.0) -> torch.Tensor:
    time = torch.arange(frames * FRAME, dtype=torch.float64) / RATE
    return (amplitude * torch.sin(2 * math.pi * hertz * time)).float().view(frames, FRAME)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, FRAME, generator=torch.Generator().manual_seed(0))


def padded(clips: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return clips * (torch.arange(clips.shape[1]) < lengths[:, None])[..., None]


def power(wave: torch.Tensor) -> torch.Tensor:
    return wave.double().square().mean()


def pitch(wave: torch.Tensor) -> float:
    """Frequency of a tone, from the phase of its analytic signal in the middle half."""
    spectrum = torch.fft.fft(wave.flatten().double())
    spectrum[len(spectrum) // 2 :] = 0
    analytic = torch.fft.ifft(spectrum)
    middle = analytic[len(analytic) // 4 : -len(analytic) // 4]
    return (middle[1:] * middle[:-1].conj()).angle().mean().item() * RATE / (2 * math.pi)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_gains_multiply_the_waveform():
    clips = noise(200, 2)
    ratio = random_gain(clips, 10.0, "waveform") / clips
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))
    gains = ratio[:, 0, 0]
    assert gains.min() > 0.5 and gains.max() < 1.5
    assert gains.var().item() == pytest.approx(1 / 84, rel=0.5)  # of Beta(10, 10)


@pytest.mark.parametrize("hertz", [300.0, 2000.0, 5000.0])
def test_a_resized_crop_is_its_own_clip_at_another_pace_and_pitch(hertz):
    clips = torch.stack([tone(hertz, 100)] * 12)
    views = waveforms.random_resized_crop(clips, torch.full((12,), 100), torch.full((12,), 64), 1.25, 1.0)
    assert views.shape == (12, 64, FRAME)
    factors = torch.tensor([pitch(view) / hertz for view in views])
    assert factors.min() >= 0.8 - 1e-3 and factors.max() <= 1.25 + 1e-3 and factors.max() / factors.min() > 1.2
    for view in views:
        assert power(view[2:-2]) == pytest.approx(0.5, rel=0.02)
        # A tone and nothing else: its FFT, tapered, holds its power in a narrow band.
        spectrum = torch.fft.rfft(view.flatten().double() * torch.hann_window(64 * FRAME, dtype=torch.float64)).abs()
        peak = int(spectrum.argmax())
        assert spectrum[max(0, peak - 8) : peak + 9].square().sum() > 0.9999 * spectrum.square().sum()


def test_what_would_pass_the_nyquist_frequency_is_filtered_out():
    clips = torch.stack([tone(7600, 100)] * 40)
    views = waveforms.random_resized_crop(clips, torch.full((40,), 100), torch.full((40,), 64), 1.6, 1.0)
    levels = torch.stack([power(view[2:-2]) for view in views])
    assert (levels < 1e-3).sum() >= 5  # faster, so that the tone lies at 8 to 12 kHz
    assert (levels > 0.3).sum() >= 5  # at the Nyquist frequency the filter passes half


def test_crops_read_nothing_beyond_the_clip_and_fill_their_views():
    lengths, sizes = torch.tensor([100, 37, 5]), torch.tensor([64, 38, 6])
    clips = torch.ones(3, 120, FRAME)
    clips = clips + (1 - padded(clips, lengths)) * 1e6
    views = waveforms.random_resized_crop(clips, lengths, sizes, 1.25, 1.0)
    for view, size in zip(views, sizes.tolist(), strict=True):
        assert view[:size].max() < 1.2 and (view[size:] == 0).all()
        middle = view[1 : size - 1]
        torch.testing.assert_close(middle, torch.ones_like(middle), atol=0.02, rtol=0)


def test_without_a_factor_a_resized_crop_of_the_whole_clip_is_the_clip():
    clips, lengths = padded(noise(2, 48), torch.tensor([48, 20])), torch.tensor([48, 20])
    views = waveforms.random_resized_crop(clips, lengths, lengths, 1.0, 1.0)
    torch.testing.assert_close(views, clips, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"mel=1\.2: a waveform has no mel bins"):
        waveforms.random_resized_crop(clips, lengths, lengths, 1.0, 1.2)


def test_a_backgrounds_power_has_the_drawn_fraction():
    clips = torch.stack([tone(500, 50), tone(1500, 50, 3.0)])  # whole periods: powers of a sum add up
    lengths, fractions = torch.tensor([50, 50]), []
    for _ in range(60):
        mixed = waveforms.random_background(clips, lengths, 0.4)
        amplitudes = torch.fft.rfft(mixed.flatten(1)).abs() * 2 / (50 * FRAME)
        own, other = amplitudes[0, 250], amplitudes[0, 750] / 3
        if other > 1e-4:
            fractions.append(other.item() ** 2)
            assert own.item() ** 2 == pytest.approx(1 - fractions[-1], abs=1e-4)
            assert power(mixed[0]) == pytest.approx((1 - fractions[-1]) * 0.5 + fractions[-1] * 4.5, rel=1e-3)
    assert len(fractions) > 15 and max(fractions) <= 0.4 and max(fractions) > 0.3 and min(fractions) < 0.1
    short = padded(noise(2, 50), torch.tensor([50, 20]))
    mixed = waveforms.random_background(short, torch.tensor([50, 20]), 0.4)
    assert (mixed[1, 20:] == 0).all()


def test_an_equalizers_response_is_the_drawn_curve():
    clips = torch.zeros(30, 20, FRAME)
    clips[:, 10, 0] = 1.0  # an impulse, whose transform is the response
    lengths = torch.full((30,), 20)
    torch.manual_seed(3)
    response = 20 * torch.fft.rfft(waveforms.random_equalizer(clips, lengths, 6.0).flatten(1)).abs().log10()
    torch.manual_seed(3)
    curve = waveforms.random_spectrum(30, 6.0, torch.device("cpu"))
    hertz = np.linspace(0, 8000, curve.shape[1])
    expected = np.stack([np.interp(np.linspace(0, 8000, response.shape[1]), hertz, row) for row in curve.numpy()])
    np.testing.assert_allclose(response.numpy(), expected, atol=0.1)  # between its values the curve bends
    assert np.abs(expected).max() <= 6 + 1e-4 and np.abs(expected).max() > 5
    # Corners are even on the mel scale: 0, 460, ..., 8000 Hz, with straight lines in between.
    mel = 2595 * np.log10(1 + hertz / 700)
    corners = np.stack([np.interp(np.linspace(0, mel[-1], 6), mel, row) for row in curve.numpy()])
    straight = np.stack([np.interp(mel, np.linspace(0, mel[-1], 6), row) for row in corners])
    np.testing.assert_allclose(curve.numpy(), straight, atol=0.2)  # corners fall between values


def test_filters_have_no_delay_wrap_nothing_around_and_leave_padding_silent():
    lengths = torch.tensor([20, 12])
    clips = torch.zeros(2, 20, FRAME)
    clips[0, -1, -1], clips[1, 11, -1] = 1.0, 1.0
    filtered = waveforms.random_equalizer(clips, lengths, 20.0)
    assert (filtered[:, :8].abs() < 1e-5).all()  # of the last sample nothing comes in at the start
    assert (filtered[1, 12:] == 0).all()
    assert filtered.flatten(1).abs().argmax(1).tolist() == [20 * FRAME - 1, 12 * FRAME - 1]
    tones = torch.stack([tone(1000, 40)])
    flat = waveforms.apply_filter(tones, torch.full((1, 513), 0.5))
    torch.testing.assert_close(flat, 0.5 * tones, atol=1e-5, rtol=0)


def test_noise_has_the_drawn_ratio_over_the_clip_alone(monkeypatch):
    lengths = torch.tensor([60, 30, 60])
    clips = padded(torch.stack([tone(400, 60), tone(900, 60, 0.01), noise(60)]), lengths)
    wanted = torch.tensor([-5.0, 10.0, 25.0])
    monkeypatch.setattr(waveforms, "random_levels", lambda *args: wanted)
    added = waveforms.random_noise(clips, lengths, 0.0) - clips
    for row, length in enumerate(lengths.tolist()):
        ratio = power(clips[row, :length]) / power(added[row, :length])
        assert 10 * math.log10(ratio) == pytest.approx(wanted[row].item(), abs=1e-2)
        assert (added[row, length:] == 0).all()
    monkeypatch.undo()
    many = noise(300, 2)
    levels = waveforms.random_noise(many, torch.full((300,), 2), 5.0) - many
    snr = 10 * torch.log10(many.square().mean((1, 2)) / levels.square().mean((1, 2)))
    assert snr.min() >= 5 - 1e-2 and snr.max() <= 35 + 1e-2
    assert snr.mean().item() == pytest.approx(20, abs=4 * (30**2 / 12 / 300) ** 0.5)


def test_noise_is_even_per_mel_but_for_its_curve():
    clips, lengths = torch.full((2, 1000, FRAME), 1e-3), torch.full((2,), 1000)
    added = (waveforms.random_noise(clips, lengths, -60.0) - clips).flatten(1)
    halves = added.unflatten(1, (2, -1)).unflatten(2, (-1, 1000))
    density = torch.fft.rfft(halves).abs().square().mean(2)[..., 1:-1] * (1 + torch.arange(1, 500) * 16 / 700)
    decibels = 10 * density.log10()
    torch.testing.assert_close(decibels[:, 0], decibels[:, 1], atol=5.0, rtol=0)  # stationary
    smooth = decibels.mean(1)
    assert (smooth.max(1).values - smooth.min(1).values).max() < 20 + 3
    assert (smooth[0] - smooth[0].mean() - smooth[1] + smooth[1].mean()).abs().max() > 3  # each has its own


def test_a_mixture_is_linear_and_the_shorter_clip_silent_after_its_end():
    one, other = noise(2, 50)
    mixed = waveforms.mix_clips(one, other[:20], 0.3)
    torch.testing.assert_close(mixed[:20], 0.3 * one[:20] + 0.7 * other[:20])
    torch.testing.assert_close(mixed[20:], 0.3 * one[20:])
    torch.testing.assert_close(waveforms.mix_clips(other[:20], one, 0.7), mixed)


def test_masks_silence_one_segment_and_one_band():
    rng = np.random.default_rng(0)
    clip, impulse = noise(400), torch.zeros(20, FRAME)
    impulse[10, 0] = 1.0
    lengths, widths = [], []
    for _ in range(60):
        masked = waveforms.mask_clip(clip, 0.2, 0.0, rng)
        silent = (masked == 0).all(1).nonzero().flatten().tolist()
        lengths.append(len(silent))
        assert not silent or silent == list(range(silent[0], silent[-1] + 1))
        kept = ~(masked == 0).all(1)
        assert torch.equal(masked[kept], clip[kept])
        response = torch.fft.rfft(waveforms.mask_clip(impulse, 0.0, 0.4, rng).flatten()).abs()
        lost = (response < 0.5).nonzero().flatten().numpy()
        if len(lost):
            assert lost.tolist() == list(range(lost[0], lost[-1] + 1))  # one band
            mel = 2595 * np.log10(1 + lost[[0, -1]] * RATE / impulse.numel() / 700)
            widths.append((mel[1] - mel[0]) / (2595 * math.log10(1 + 8000 / 700)))
            assert len(lost) < 100 or (response[lost[50] : lost[-50]] < 0.1).all()
    assert max(lengths) <= 80 and max(lengths) > 60 and np.mean(lengths) == pytest.approx(40, abs=12)
    assert max(widths) <= 0.42 and max(widths) > 0.3
    assert torch.equal(waveforms.mask_clip(clip, 0.0, 0.0, rng), clip)


def test_silence_stays_silent_and_finite():
    silent, lengths = torch.zeros(3, 20, FRAME), torch.tensor([20, 8, 1])
    for made in (
        waveforms.random_resized_crop(silent, lengths, lengths, 1.25, 1.0),
        waveforms.random_background(silent, lengths, 0.5),
        waveforms.random_equalizer(silent, lengths, 6.0),
        waveforms.random_noise(silent, lengths, 0.0),
        random_gain(silent, 10.0, "waveform"),
    ):
        assert made.shape == silent.shape and (made == 0).all()


def test_two_views_of_waveforms_are_cut_at_tokens_and_padded_with_silence():
    lengths = torch.tensor([200, 131, 7, 64])
    clips = padded(noise(4, 200), lengths)
    config = UaMixConfig(background=0.3, noise_snr=10.0, min_view_frames=64)
    view_a, view_b, frames = two_views(clips, lengths, config, 2, 150, "waveform")
    assert view_a.shape == view_b.shape and view_a.shape[1:] == (int(frames.max()), FRAME)
    assert (frames % 2 == 0).all() and frames[2:].tolist() == [8, 64] and frames.max() <= 150
    for view in (view_a, view_b):
        assert view.isfinite().all()
        for row, length in enumerate(frames.tolist()):
            assert (view[row, length:] == 0).all() and (view[row, :length] != 0).any(1).all()
    plain = {"gain_alpha": 0, "equalizer_db": 0, "resize_time": 1, "min_crop": 1}
    clips, lengths = clips[:, :130], lengths.clamp_max(130)
    view_a, view_b, frames = two_views(clips, lengths, UaMixConfig(**plain), 2, 300, "waveform")
    assert frames.tolist() == lengths.tolist() and torch.equal(view_a, view_b)
    assert torch.equal(view_a, clips)


def test_a_stretch_in_frequency_is_refused_by_name():
    with pytest.raises(ValueError, match=r"resize_mel=1\.2: a waveform has no mel bins"):
        two_views(noise(2, 20), torch.tensor([20, 20]), UaMixConfig(resize_mel=1.2), 2, 300, "waveform")
