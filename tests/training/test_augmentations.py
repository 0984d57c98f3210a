"""Views are stretches of the raw log-mel at one random gain.

Frame t of clip b holds 10 * (256 * b + t) in all mel bins, so a view tells where it was cut; padding is NaN, so a view
that takes any of it tells too.
"""

import math

import pytest
import torch

from uamix_hf.training.augmentations import (
    crop_lengths,
    draw_crop,
    random_crop,
    random_gain,
    two_views,
)
from uamix_hf.tuning import UaMixConfig

STEP, CLIP = 10.0, 256


def ramps(lengths: list[int], mel: int = 3) -> torch.Tensor:
    frames = -(-max(lengths) // 16) * 16
    place = torch.arange(frames) + CLIP * torch.arange(len(lengths))[:, None]
    values = STEP * place.float()[..., None].expand(-1, -1, mel)
    return values.masked_fill((torch.arange(frames) >= torch.tensor(lengths)[:, None])[..., None], torch.nan)


def starts(view: torch.Tensor) -> torch.Tensor:
    """Where each view was cut: gains move values by at most 2 ln 2, far less than half a step."""
    return (view[:, 0, 0] / STEP).round().long() - CLIP * torch.arange(len(view))


def make_views(lengths, max_frames=1024, **config):
    # A curve over the bins, another pace or another clip would hide where a view was cut.
    plain = {"equalizer_db": 0, "resize_time": 1, "resize_mel": 1, "background": 0, "min_view_frames": 0}
    settings = UaMixConfig(**{**plain, "min_crop": 0.6, **config})
    return two_views(ramps(lengths), torch.tensor(lengths), settings, 16, max_frames, "log-mel")


@pytest.mark.parametrize("seed", range(5))
def test_a_view_is_one_stretch_of_its_own_clip_plus_twice_the_log_of_one_gain(seed):
    torch.manual_seed(seed)
    lengths = [160, 33, 100, 16, 17, 159, 5]
    *views, sizes = make_views(lengths)
    for view in views:
        clips = ramps(lengths)
        for row, (start, size) in enumerate(zip(starts(view).tolist(), sizes.tolist(), strict=True)):
            assert 0 <= start <= lengths[row] - size
            offset = view[row, :size] - clips[row, start : start + size]
            torch.testing.assert_close(offset, offset[0, 0].expand_as(offset), atol=2e-3, rtol=0)
            assert 0.5 < math.exp(offset.mean() / 2) < 1.5
        assert view.isfinite().all()  # not even beyond its frames does a view hold another's padding


def test_gains_are_beta_10_10_around_one():
    torch.manual_seed(0)
    count = 40_000
    gains = (random_gain(torch.zeros(count, 2, 2), 10.0, "log-mel") / 2).exp()
    assert (gains == gains[:, :1, :1]).all()
    variance = 1 / (4 * 21)  # of Beta(10, 10)
    assert gains[:, 0, 0].mean().item() == pytest.approx(1, abs=4 * (variance / count) ** 0.5)
    assert gains[:, 0, 0].var().item() == pytest.approx(variance, rel=4 * (2 / count) ** 0.5)


def test_crops_start_anywhere_with_equal_probability():
    torch.manual_seed(0)
    count, length, size = 20_000, 25, 16
    clips = STEP * torch.arange(length).float()[None, :, None].expand(count, -1, 1)
    view = random_crop(clips, torch.full((count,), length), torch.full((count,), size))
    found = torch.bincount((view[:, 0, 0] / STEP).long(), minlength=length - size + 1)
    expected = count / (length - size + 1)
    assert len(found) == length - size + 1
    assert (found - expected).abs().max() < 5 * expected**0.5


def test_both_views_have_the_same_share_of_the_clip_in_whole_patches():
    torch.manual_seed(0)
    seen = set()
    for _ in range(300):
        view_a, view_b, sizes = make_views([160, 160, 80], min_crop=0.5)
        assert view_a.shape == view_b.shape == (3, int(sizes.max()), 3)
        assert sizes[0] == sizes[1] and sizes[0] % 16 == 0
        # floor(160 s / 16) = n means 80 s / 16 in [n / 2, (n + 1) / 2)
        assert sizes[2] == sizes[0] // 32 * 16
        seen.add(int(sizes[0]))
    assert seen == {80, 96, 112, 128, 144}


def test_the_share_of_a_crop_is_uniform_above_the_least():
    torch.manual_seed(0)
    draws = torch.tensor([draw_crop(UaMixConfig(min_crop=0.4)) for _ in range(4000)])
    quantiles = torch.quantile(draws, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(quantiles, torch.tensor([0.4, 0.55, 0.7, 0.85, 1.0]), atol=0.02, rtol=0)
    assert draws.min() >= 0.4 and draws.max() <= 1
    assert draw_crop(UaMixConfig(min_crop=1)) == 1


def test_crop_lengths_equal_integer_arithmetic():
    lengths = list(range(1, 200))
    for numerator in (1, 3, 7, 8):  # shares that binary fractions hold exactly
        expected = [min(max(length * numerator // 8 // 16 * 16, 16), 96) for length in lengths]
        assert crop_lengths(torch.tensor(lengths), numerator / 8, 0, 16, 96).tolist() == expected


def test_short_clips_are_not_cropped():
    lengths = list(range(1, 300))
    for share in (0.25, 0.5):
        for length, frames in zip(
            lengths, crop_lengths(torch.tensor(lengths), share, 64, 16, 96).tolist(), strict=True
        ):
            if length <= 64:
                assert frames == -(-length // 16) * 16  # whole, with the last patch padded
            else:
                assert frames == min(max(math.floor(length * share), 64) // 16 * 16, 96)
    view_a, view_b, sizes = make_views([28, 60, 30], min_crop=0.3, min_view_frames=64, gain_alpha=0)
    assert sizes.tolist() == [28, 60, 30]
    assert torch.equal(view_a, view_b) and torch.equal(view_a, ramps([28, 60, 30]).nan_to_num(0.0))


def test_a_resized_crop_of_a_short_clip_fills_its_view():
    torch.manual_seed(0)
    views = make_views([28, 45, 5], resize_time=1.5, min_view_frames=96, gain_alpha=0)
    assert views[2].tolist() == [32, 48, 16]
    for view in views[:2]:
        for row, (length, size) in enumerate(((28, 32), (45, 48), (5, 16))):
            values = view[row, :size] / STEP - CLIP * row
            assert values.min() >= -1e-3 and values.max() <= length - 1 + 1e-3
            assert (view[row, size:] == 0).all()


def test_a_long_recording_gives_two_stretches_of_the_longest_input():
    torch.manual_seed(0)
    view_a, view_b, sizes = make_views([2000, 2000, 2000], max_frames=96)
    assert view_a.shape[1] == view_b.shape[1] == 96
    assert sizes.tolist() == [96] * 3
    for view in (view_a, view_b):
        assert ((0 <= starts(view)) & (starts(view) <= 2000 - 96)).all()
        torch.testing.assert_close(view[:, -1] - view[:, 0], torch.full((3, 3), STEP * 95), atol=1e-2, rtol=0)
    assert (starts(view_a) != starts(view_b)).any()


def test_a_clip_shorter_than_a_patch_is_whole_in_both_views():
    torch.manual_seed(0)
    view_a, view_b, sizes = make_views([5, 9], gain_alpha=0)
    assert sizes.tolist() == [5, 9]
    assert view_a.shape == (2, 16, 3)
    for view in (view_a, view_b):
        for row, length in enumerate([5, 9]):
            assert torch.equal(view[row, :length], ramps([5, 9])[row, :length])


def test_without_crop_and_gain_views_are_the_clips():
    lengths = [96, 64, 16]
    view_a, view_b, sizes = make_views(lengths, min_crop=1, gain_alpha=0)
    assert sizes.tolist() == lengths
    assert torch.equal(view_a, view_b)
    assert torch.equal(view_a, ramps(lengths).nan_to_num(0.0))


def test_views_differ_from_each_other_in_place_and_gain():
    torch.manual_seed(0)
    view_a, view_b, _ = make_views([160] * 32, min_crop=0.5)
    assert (starts(view_a) != starts(view_b)).any()
    gains = [view[:, 0, 0] - STEP * (starts(view) + CLIP * torch.arange(32)) for view in (view_a, view_b)]
    assert ((gains[0] - gains[1]).abs() > 5e-3).all()
    assert len(starts(view_a).unique()) > 5  # and clips differ among themselves
    assert len((gains[0] / 5e-3).round().unique()) > 25


def test_equalizer_and_noise_are_used_where_the_configuration_asks_for_them():
    torch.manual_seed(0)
    quiet = {"min_crop": 1, "gain_alpha": 0, "equalizer_db": 0, "resize_time": 1, "resize_mel": 1, "background": 0}
    clips, lengths = torch.randn(2, 64, 16), torch.tensor([64, 48])
    for more in ({"equalizer_db": 6.0}, {"noise_snr": 10.0}, {"resize_mel": 1.5}, {"background": 0.4}):
        view_a, view_b, sizes = two_views(clips, lengths, UaMixConfig(**{**quiet, **more}), 16, 1024, "log-mel")
        assert sizes.tolist() == [64, 48]
        assert not torch.allclose(view_a[0], clips[0], atol=1e-3) and not torch.allclose(view_a, view_b, atol=1e-3)
    assert torch.equal(two_views(clips, lengths, UaMixConfig(**quiet), 16, 1024, "log-mel")[0][0], clips[0])


def test_the_seed_alone_decides():
    def draw(seed):
        torch.manual_seed(seed)
        return make_views([160, 100])

    assert all(torch.equal(one, two) for one, two in zip(draw(3), draw(3), strict=True))
    assert not all(one.shape == two.shape and torch.equal(one, two) for one, two in zip(draw(3), draw(4), strict=True))
