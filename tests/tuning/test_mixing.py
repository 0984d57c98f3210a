"""Mixtures against their definition: which frames come from whom, and what fraction lambda claims."""

import numpy as np
import pytest
import torch

from uamix_hf.models.audio_mae.patches_audio_mae import AudioMAEPatchEmbeddings
from uamix_hf.tuning import UaMixConfig
from uamix_hf.tuning.mixing import draw_lambda, draw_mix_mask, draw_partners, frame_lambda, mix, token_lambda

LENGTHS = torch.tensor([96, 80, 96, 41, 64, 33, 90, 31, 96])


def mask_of(lengths=LENGTHS, partner=None, frames=None, mel=32, **config):
    lengths = torch.as_tensor(lengths)
    partner = draw_partners(len(lengths), "random") if partner is None else partner
    frames = -(-int(lengths.max()) // 16) * 16 if frames is None else frames
    return draw_mix_mask(UaMixConfig(**config), lengths, partner, frames, mel)


def pasted_stretch(row: torch.Tensor) -> tuple[int, int]:
    """First pasted frame and the one after the last; (0, 0) if there is none. Asserts that they are one stretch."""
    pasted = (row != 1).nonzero().flatten().tolist()
    if not pasted:
        return 0, 0
    assert pasted == list(range(pasted[0], pasted[-1] + 1))
    return pasted[0], pasted[-1] + 1


@pytest.mark.parametrize("batch", range(2, 34))
def test_random_partners_are_a_permutation_without_fixed_point(batch):
    torch.manual_seed(batch)
    for _ in range(30):
        partner = draw_partners(batch, "random")
        assert partner.sort().values.tolist() == list(range(batch))
        assert (partner != torch.arange(batch)).all()


def test_every_other_clip_is_a_partner_equally_often():
    torch.manual_seed(0)
    draws = 8000
    count = torch.zeros(5, 5)
    for _ in range(draws):
        count[torch.arange(5), draw_partners(5, "random")] += 1
    expected = draws / 4 * (1 - torch.eye(5))
    assert ((count - expected).abs() <= 5 * (draws * 0.25 * 0.75) ** 0.5).all()
    assert (count.diagonal() == 0).all()


@pytest.mark.parametrize("batch", [2, 5, 8, 9])
@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup"])
def test_reverse_pairing_is_mutual_and_leaves_the_odd_middle_alone(batch, kind):
    torch.manual_seed(0)
    partner = draw_partners(batch, "reverse")
    assert partner.tolist() == list(reversed(range(batch)))
    mix_mask = mask_of([96] * batch, partner, mix=kind)
    if batch % 2:
        assert (mix_mask[batch // 2] == 1).all()
        assert frame_lambda(mix_mask, torch.tensor([96] * batch))[batch // 2] == 1


@pytest.mark.parametrize("position", ["segment", "prefix", "center_clip"])
@pytest.mark.parametrize("align", [1, 16])
def test_t_cutmix_pastes_one_aligned_stretch_of_frames_that_both_clips_have(position, align):
    torch.manual_seed(0)
    mixed = 0
    for _ in range(40):
        partner = draw_partners(len(LENGTHS), "random")
        mix_mask = mask_of(partner=partner, mix_align=align, mix_position=position)
        assert mix_mask.shape == (len(LENGTHS), 96, 1)  # one value for all mel bins
        assert ((mix_mask == 0) | (mix_mask == 1)).all()
        for row in range(len(LENGTHS)):
            start, end = pasted_stretch(mix_mask[row, :, 0])
            common = min(int(LENGTHS[row]), int(LENGTHS[partner[row]])) // align * align
            assert 0 <= start <= end <= common
            assert start % align == end % align == 0
            assert end - start <= max(0, common - align)  # something of the clip always stays
            if position == "prefix" and end > start:
                assert end == common
            mixed += end > start
    assert mixed > 100


def test_pasted_frames_are_the_partners_at_the_same_time():
    torch.manual_seed(0)
    clips = torch.randn(9, 96, 32)
    partner = draw_partners(9, "random")
    mix_mask = mask_of(partner=partner)
    assert (mix_mask == 0).any()
    mixture = mix(clips, partner, mix_mask)
    for row in range(9):
        for frame in range(96):
            source = clips[row] if mix_mask[row, frame, 0] == 1 else clips[partner[row]]
            assert torch.equal(mixture[row, frame], source[frame])


def test_cutmix_pastes_one_aligned_box():
    torch.manual_seed(0)
    for align in (1, 16):
        mix_mask = mask_of(mix="cutmix", mix_align=align, mel=64)
        pasted = mix_mask == 0
        assert mix_mask.shape == (9, 96, 64) and pasted.any()
        for row in pasted:
            times, bins = row.any(1), row.any(0)
            assert torch.equal(row, times[:, None] & bins)
            assert sum(value % align for value in (*pasted_stretch(~times), *pasted_stretch(~bins))) == 0


def test_the_boxs_area_is_the_partners_share():
    torch.manual_seed(0)
    lengths = torch.full((200,), 512)
    mix_mask = mask_of(lengths, mix="cutmix", mix_alpha=1000.0, mix_dominant=False, mix_align=1, mel=128)
    # Beta(1000, 1000) is 0.5 within 0.011 (one standard deviation); rounding moves a side by at most half a bin.
    assert frame_lambda(mix_mask, lengths).mean().item() == pytest.approx(0.5, abs=0.01)


def test_mixup_blends_the_common_frames_in_one_proportion():
    torch.manual_seed(0)
    partner = draw_partners(9, "random")
    mix_mask = mask_of(partner=partner, mix="mixup", mix_align=16)
    clips = torch.randn(9, 96, 32)
    mixture = mix(clips, partner, mix_mask)
    for row in range(9):
        common = min(int(LENGTHS[row]), int(LENGTHS[partner[row]])) // 16 * 16
        lam = mix_mask[row, 0, 0]
        assert (lam == 1) == (common < 32)
        assert (mix_mask[row, :common] == lam).all() and (mix_mask[row, common:] == 1).all()
        blend = lam * clips[row, :common] + (1 - lam) * clips[partner[row], :common]
        torch.testing.assert_close(mixture[row, :common], blend)
        assert torch.equal(mixture[row, common:], clips[row, common:])


@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup"])
def test_clips_with_less_than_two_aligned_stretches_in_common_stay_as_they_are(kind):
    torch.manual_seed(0)
    lengths = [31, 96, 16, 96, 5, 96]
    partner = torch.tensor([1, 0, 3, 2, 5, 4])
    for _ in range(20):
        assert (mask_of(lengths, partner, mix=kind) == 1).all()
    assert (mask_of([32, 96], torch.tensor([1, 0]), mix_dominant=False, mix_alpha=1000.0, mix=kind) != 1).any()


@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup"])
def test_frame_lambda_is_the_mean_of_the_share_over_frames_of_sound(kind):
    torch.manual_seed(0)
    mix_mask = mask_of(mix=kind, mix_align=4)
    lam = frame_lambda(mix_mask, LENGTHS)
    assert lam.dtype == torch.float32 and (lam < 1).any()
    for row, length in enumerate(LENGTHS.tolist()):
        assert lam[row].item() == pytest.approx(mix_mask[row, :length].double().mean().item(), abs=1e-6)


@pytest.mark.parametrize("patch,strides", [((16, 16), None), ((2, 64), None), ((16, 16), (10, 10))])
@pytest.mark.parametrize("align", [1, 16])
@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup"])
def test_token_lambda_is_the_mean_share_of_the_visible_tokens(kind, align, patch, strides):
    torch.manual_seed(0)
    mel = 64
    step = strides or patch
    columns, bands = (96 - patch[0]) // step[0] + 1, (mel - patch[1]) // step[1] + 1
    mix_mask = mask_of(mix=kind, mix_align=align, mel=mel)
    visible = (torch.rand(9, columns, bands) < 0.5).float()
    visible[:, 0, 0] = 1  # an encoder always keeps a token
    lam = token_lambda(mix_mask, visible, patch, strides)
    values = mix_mask.expand(-1, -1, mel).numpy().astype(np.float64)
    for row in range(9):
        mix_masks = []
        for time in range(columns):
            for band in range(bands):
                if visible[row, time, band]:
                    start, low = time * step[0], band * step[1]
                    cell = values[row, start : start + patch[0], low : low + patch[1]]
                    mix_masks.append(cell.mean())
        assert lam[row].item() == pytest.approx(np.mean(mix_masks), abs=1e-6)


def test_both_lambdas_are_one_minus_the_stretchs_share_of_whole_clips():
    torch.manual_seed(0)
    lengths = torch.full((64,), 96)
    mix_mask = mask_of(lengths, mix_dominant=False)
    expected = [1 - (end - start) / 96 for start, end in (pasted_stretch(row[:, 0]) for row in mix_mask)]
    torch.testing.assert_close(frame_lambda(mix_mask, lengths), torch.tensor(expected))
    torch.testing.assert_close(token_lambda(mix_mask, torch.ones(64, 6, 2), (16, 16)), torch.tensor(expected))
    assert len(set(expected)) == 6


def mean_lambda(length: int, draws: int, **config) -> tuple[float, float]:
    """Mean lambda of many mixtures of equally long clips, and its standard error."""
    lams = []
    for _ in range(draws // 2000):
        lengths = torch.full((2000,), length)
        lams.append(frame_lambda(mask_of(lengths, frames=length, mix_dominant=False, **config), lengths))
    lam = torch.cat(lams).double()
    return lam.mean().item(), lam.std().item() / len(lam) ** 0.5


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_a_stretch_that_starts_anywhere_leaves_lambda_unbiased(alpha):
    torch.manual_seed(0)
    mean, error = mean_lambda(400, 20_000, mix_align=1, mix_alpha=alpha)
    assert mean == pytest.approx(0.5, abs=4 * error + 1 / 400)


def test_rounding_to_cells_gives_the_mean_that_uniform_lambdas_round_to():
    torch.manual_seed(0)
    mean, error = mean_lambda(64, 40_000, mix_align=16)
    # Four cells: a uniform fraction rounds to 0 and 4 with 1/8, else with 1/4; 4 is clamped to 3.
    assert mean == pytest.approx(1 - (1 * 0.25 + 2 * 0.25 + 3 * 0.375) / 4, abs=4 * error)


def test_a_clipped_stretch_around_a_centre_favours_the_clip_by_a_twelfth():
    torch.manual_seed(0)
    mean, error = mean_lambda(400, 40_000, mix_align=1, mix_position="center_clip")
    assert mean == pytest.approx(7 / 12, abs=4 * error + 1 / 400)
    assert mean > 0.5 + 10 * error


def test_stretches_start_anywhere_with_equal_probability():
    torch.manual_seed(0)
    lengths = torch.full((20_000,), 160)
    mix_mask = mask_of(lengths, mix_alpha=1000.0)
    starts = [start for start, end in map(pasted_stretch, mix_mask[:, :, 0]) if end - start == 80]
    count = np.bincount(np.array(starts) // 16, minlength=6)
    assert len(count) == 6 and len(starts) > 15_000
    assert np.abs(count - len(starts) / 6).max() < 5 * (len(starts) / 6) ** 0.5


@pytest.mark.parametrize("length", [80, 96, 112, 400])
def test_dominant_clips_keep_half_but_for_rounding(length):
    torch.manual_seed(0)
    lengths = torch.full((2000,), length)
    lam = frame_lambda(mask_of(lengths), lengths)
    assert lam.min() >= 0.5 - 16 / (2 * length) - 1e-6
    wanted = draw_lambda(UaMixConfig(), 20_000)
    assert wanted.min() >= 0.5
    assert wanted.mean().item() == pytest.approx(0.75, abs=4 * (1 / 48 / 20_000) ** 0.5)


def test_one_lambda_for_the_batch_or_one_for_each_clip():
    torch.manual_seed(0)
    for kind in ("t-cutmix", "mixup"):
        lengths = torch.full((64,), 96)
        shared = frame_lambda(mask_of(lengths, mix=kind, mix_per_sample=False, mix_alpha=100.0), lengths)
        assert len(shared.unique()) == 1 and shared[0] < 1
        own = frame_lambda(mask_of(lengths, mix=kind, mix_dominant=False), lengths)
        assert len(own.unique()) > 4


def test_mixing_has_the_wanted_probability():
    torch.manual_seed(0)
    assert (mask_of([96] * 100, mix_probability=0) == 1).all()
    wanted = draw_lambda(UaMixConfig(mix_probability=0.3, mix_dominant=False), 20_000)
    assert (wanted < 1).double().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 20_000) ** 0.5)


@pytest.mark.parametrize("kind", ["t-cutmix", "cutmix", "mixup"])
def test_mixing_aligned_spectrograms_is_mixing_their_patch_tokens(kind, encoder_config):
    torch.manual_seed(0)
    embed = AudioMAEPatchEmbeddings(encoder_config)
    clips = torch.randn(9, 96, 32)
    partner = draw_partners(9, "random")
    mix_mask = mask_of(partner=partner, mix=kind)
    cells = mix_mask.expand(-1, -1, 32)[:, ::16, ::16].flatten(1)[..., None]  # tokens run time-major
    with torch.no_grad():
        tokens, mixed = embed(clips), embed(mix(clips, partner, mix_mask))
    assert (cells != 1).any()
    torch.testing.assert_close(mixed, cells * tokens + (1 - cells) * tokens[partner], atol=1e-6, rtol=1e-6)
