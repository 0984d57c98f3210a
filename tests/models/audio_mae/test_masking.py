"""Dropped tokens and drop path, against loops written here."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from uamix_hf import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEForPreTraining, AudioMAEModel
from uamix_hf.models.audio_mae.layers_audio_mae import AudioMAEDropPath
from uamix_hf.models.audio_mae.masking_audio_mae import drop_tokens

GRIDS = [(64, 8), (63, 8), (101, 12), (8, 8), (5, 3), (2, 8), (1, 8), (1, 1)]  # time columns, frequency bands


def log_mels(batch: int, frames: int) -> torch.Tensor:
    return torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(frames))


def frames_mask(lengths: list[int], frames: int) -> torch.Tensor:
    return (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()


def intersection(noise: np.ndarray, columns: int, bands: int, time_ratio: float, mel_ratio: float) -> set[int]:
    """Tokens of one clip in a kept column and a kept band; `noise` has `columns` time columns, then the bands."""
    in_time = np.argsort(noise[:columns])[: max(1, int(columns * (1 - time_ratio)))]
    in_mel = np.argsort(noise[-bands:])[: max(1, int(bands * (1 - mel_ratio)))]
    return {int(time) * bands + int(mel) for time in in_time for mel in in_mel}


@pytest.mark.parametrize("ratios", [(0.6, 0.5), (0.2, 0.2), (0.9, 0.0), (0.0, 0.75), (0.99, 0.99)])
@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_2d_masking_keeps_exactly_the_intersection_on_any_grid(grid, ratios) -> None:
    columns, bands = grid
    noise = torch.rand(3, columns + bands, generator=torch.Generator().manual_seed(columns))
    tokens = torch.arange(3 * columns * bands).view(3, -1, 1).float()
    visible, counts, mask, ids_restore = drop_tokens(tokens, None, bands, None, *ratios, noise)
    assert counts is None
    for clip in range(3):
        kept = intersection(noise[clip].numpy(), columns, bands, *ratios)
        first = clip * columns * bands
        assert [int(value) - first for value in visible[clip, :, 0]] == sorted(kept)
        assert set((mask[clip] == 0).nonzero()[:, 0].tolist()) == kept
        # ids_restore is the position of each visible token.
        positions = ids_restore[clip, sorted(kept)]
        assert torch.equal(visible[clip, positions, 0], tokens[clip, sorted(kept), 0])
        assert sorted(ids_restore[clip].tolist()) == list(range(columns * bands))


def test_2d_masking_of_padded_clips_counts_their_own_columns() -> None:
    columns, bands, lengths = 9, 4, [9, 5, 1]
    valid = (torch.arange(columns * bands) // bands)[None] < torch.tensor(lengths)[:, None]
    noise = torch.rand(3, columns + bands, generator=torch.Generator().manual_seed(2))
    tokens = torch.arange(columns * bands).view(1, -1, 1).expand(3, -1, -1).float()
    visible, counts, mask, _ = drop_tokens(tokens, valid, bands, None, 0.5, 0.5, noise)
    assert counts is not None
    for clip, length in enumerate(lengths):
        own = np.concatenate([noise[clip, :length].numpy(), noise[clip, columns:].numpy()])
        kept = intersection(own, length, bands, 0.5, 0.5)
        assert set(visible[clip, counts[clip], 0].int().tolist()) == kept
        removed = set(mask[clip].nonzero()[:, 0].tolist())
        assert removed == set(range(length * bands)) - kept  # padding is neither visible nor removed


def test_a_fraction_of_the_tokens_that_the_grid_leaves_is_dropped_as_well() -> None:
    columns, bands = 10, 8
    noise = torch.rand(2, columns + bands + columns * bands, generator=torch.Generator().manual_seed(3))
    tokens = torch.arange(columns * bands).view(1, -1, 1).expand(2, -1, -1).float()
    visible, _, mask, _ = drop_tokens(tokens, None, bands, 0.3, 0.2, 0.25, noise)
    for clip in range(2):
        values = noise[clip].numpy()
        grid = sorted(intersection(values[: columns + bands], columns, bands, 0.2, 0.25))
        by_noise = sorted(grid, key=lambda token: values[columns + bands + token])
        kept = set(by_noise[: int(len(grid) * 0.7)])
        assert set(visible[clip, :, 0].int().tolist()) == kept == set((mask[clip] == 0).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("decoder_type", ["global", "local"])
def test_pretraining_with_2d_masks_predicts_what_they_remove(tiny_config: AudioMAEConfig, decoder_type: str) -> None:
    config = AudioMAEConfig(**{**tiny_config.to_dict(), "mask_type": "time_frequency", "decoder_type": decoder_type})
    model = AudioMAEForPreTraining(config).eval()
    clips = log_mels(2, 96)
    output = model(clips)
    kept = max(1, int(6 * 0.4)) * int(8 * 0.5)
    assert (output.mask == 0).sum(1).tolist() == [kept, kept] and output.loss.isfinite()
    grids = (output.mask == 0).view(2, 6, 8)
    for grid in grids:  # an outer product, and not the same for both clips
        assert torch.equal(grid, grid.any(dim=1)[:, None] & grid.any(dim=0)[None])
    assert not torch.equal(grids[0], grids[1])
    noise = torch.rand(2, 14)
    first, again = model(clips, noise=noise), model(clips, noise=noise)
    assert torch.equal(first.mask, again.mask) and torch.equal(first.loss, again.loss)
    # A clip that is padded has the mask and the prediction of the clip alone.
    own = torch.cat([noise[:1, :4], noise[:1, 6:]], dim=1)
    alone = model(clips[:1, :64], noise=own)
    padded = model(
        torch.cat([clips[:1, :64], clips[1:, 64:]], dim=1), attention_mask=frames_mask([64], 96), noise=noise[:1]
    )
    assert torch.equal(alone.mask, padded.mask[:, :32]) and padded.mask[:, 32:].sum() == 0
    torch.testing.assert_close(padded.loss, alone.loss, rtol=1e-5, atol=1e-6)


def test_noise_of_another_size_and_ratios_out_of_range_are_refused(tiny_config: AudioMAEConfig) -> None:
    model = AudioMAEModel(tiny_config)
    with pytest.raises(ValueError, match="one value per token, or per time column and frequency band"):
        model(log_mels(1, 64), mask_time_ratio=0.5, noise=torch.rand(1, 32))
    for name in ("mask_time_ratio", "mask_mel_ratio", "drop_path_rate", "patchout_ratio", "patchout_time_ratio"):
        with pytest.raises(Exception, match=name):
            AudioMAEConfig(**{name: 1.0})
    with pytest.raises(Exception, match="contrastive_weight"):
        AudioMAEConfig(contrastive_weight=-1.0)


# --- MAE-AST's joint objective


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_joint_objective_is_the_closed_form(tiny_config: AudioMAEConfig, norm_pix: bool, padded: bool) -> None:
    config = AudioMAEConfig(**{**tiny_config.to_dict(), "contrastive_weight": 0.1, "norm_pix_loss": norm_pix})
    torch.manual_seed(0)
    model = AudioMAEForPreTraining(config).eval()
    torch.nn.init.normal_(model.decoder.match.weight, std=0.2)
    clips, attention_mask = log_mels(2, 48), frames_mask([48, 20], 48) if padded else None
    # The matches are not among the outputs: they are what the second linear layer makes of the decoder's last states.
    states = {}
    handle = model.decoder.match.register_forward_hook(lambda module, inputs, made: states.update(match=made))
    noise = torch.rand(2, 24)
    output = model(clips, attention_mask=attention_mask, noise=noise)
    handle.remove()
    surprises = []
    for clip in range(2):
        patches = clips[clip].unfold(0, 16, 16).unfold(1, 16, 16)  # (time, mel, frame, bin)
        patches = patches.reshape(24, 256).double()
        if norm_pix:
            patches = (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True) + 1e-6).sqrt()
        removed = output.mask[clip].nonzero()[:, 0]
        scores = states["match"][clip, removed].double() @ patches[removed].T
        surprises += F.cross_entropy(scores, torch.arange(len(removed)), reduction="none").tolist()
    assert output.loss_contrastive.item() == pytest.approx(np.mean(surprises), rel=1e-4)
    plain = model.reconstruction_loss(model.targets(clips), output.logits, output.mask)
    assert output.loss_reconstruction.item() == pytest.approx(plain.item())
    assert output.loss.item() == pytest.approx(plain.item() + 0.1 * np.mean(surprises), rel=1e-4)
    output.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_without_a_weight_there_is_no_second_prediction(tiny_config: AudioMAEConfig) -> None:
    model = AudioMAEForPreTraining(tiny_config)
    assert not any("match" in name for name in model.state_dict())
    output = model(log_mels(1, 32))
    assert output.loss_contrastive is None and "loss_reconstruction" not in output


# --- fine-tuning


def test_patchout_drops_tokens_while_training_alone(tiny_config: AudioMAEConfig) -> None:
    config = AudioMAEConfig(
        **{
            **tiny_config.to_dict(),
            "patchout_time_ratio": 0.2,
            "patchout_mel_ratio": 0.2,
            "patchout_ratio": 0.5,
            "max_length": 1024,
        }
    )
    model = AudioMAEForAudioClassification(config)
    seen: list[int] = []
    model.audio_mae.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1] - 1))
    clips = log_mels(2, 1024)
    model.train()(clips)
    model.eval()(clips)
    model.audio_mae.train()(clips)
    assert seen == [int(51 * 6 * 0.5), 512, 512]  # 51 of 64 columns and 6 of 8 bands are kept
    model.train()(log_mels(2, 16))
    assert seen[-1] == 3  # of the one column, 6 bands stay, and half of these


def test_drop_path_leaves_branches_out_by_clip_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = AudioMAEDropPath(0.25)
    branch = torch.ones(4000, 3, 2)
    out = drop(branch)
    by_clip = out[:, 0, 0]
    assert torch.equal(out, by_clip[:, None, None].expand_as(out))
    assert by_clip.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (by_clip == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop.eval()(branch), branch)


def test_drop_path_grows_with_depth_in_the_encoder_alone(tiny_config: AudioMAEConfig) -> None:
    config = AudioMAEConfig(**{**tiny_config.to_dict(), "num_hidden_layers": 5, "drop_path_rate": 0.2})
    model = AudioMAEForPreTraining(config)
    rates = [layer.drop_path.rate for layer in model.audio_mae.layers]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert all(layer.drop_path.rate == 0 for layer in model.decoder.layers)
    one = AudioMAEModel(AudioMAEConfig(**{**tiny_config.to_dict(), "num_hidden_layers": 1, "drop_path_rate": 0.2}))
    clips = log_mels(2, 32)
    assert torch.equal(
        one.train()(clips).pooler_output, one.eval()(clips).pooler_output
    )  # the first block is never left
