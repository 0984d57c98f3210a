"""Held-out clips are masked and cut by their ids alone."""

import numpy as np
import pytest
import torch
from toy_sounds import EXTRACTOR

from uamix_hf.pretraining import HeldOutCollator, masking_noise


def removed(model, lengths: list[int], ids: list[int], frames: int) -> list[torch.Tensor]:
    """Of each clip, the mask of its own tokens in a batch padded to `frames`."""
    values = torch.randn(len(ids), frames, 32, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()
    outputs = model.eval()(values, mask, noise=masking_noise(model.config, ids, frames))
    return [row[: -(-length // 16) * 2] for row, length in zip(outputs.mask, lengths, strict=True)]


@pytest.mark.parametrize("mask_type", ["unstructured", "time_frequency"])
def test_what_is_removed_of_a_clip_depends_on_nothing_but_its_id(make_model, mask_type: str) -> None:
    model = make_model(mask_type=mask_type, mask_ratio=0.5, mask_time_ratio=0.5)
    lengths, ids = [64, 33, 48], [7, 2**62, 3]
    batch = removed(model, lengths, ids, 64)
    for length, sample, expected in zip(lengths, ids, batch, strict=True):
        (alone,) = removed(model, [length], [sample], -(-length // 16) * 16)
        assert torch.equal(alone, expected) and 0 < expected.sum() < len(expected)
    assert torch.equal(torch.cat(removed(model, lengths[::-1], ids[::-1], 64)), torch.cat(batch[::-1]))
    masks = {tuple(removed(model, [64], [sample], 64)[0].tolist()) for sample in range(20)}
    assert len(masks) > 5


def test_noise_has_no_equals_in_any_clip(make_model) -> None:
    noise = masking_noise(make_model(max_length=1024, num_mel_bins=128).config, list(range(50)), 1024)
    assert noise.shape == (50, 512) and all(len(row.unique()) == 512 for row in noise)


def test_batches_are_neither_rolled_nor_amplified_and_long_recordings_give_their_middle(make_model, clips) -> None:
    collator = HeldOutCollator(EXTRACTOR, make_model().config)
    long = torch.from_numpy(np.random.default_rng(0).normal(-4, 2, (101, 32)).astype(np.float16))
    rows = [{"features": long, "sample_id": 99}, clips[0]]
    batch = collator(rows)
    frames = len(clips[0]["features"])
    assert torch.equal(batch["input_values"][0], EXTRACTOR.normalize(long[18:82].float()))
    assert torch.equal(batch["input_values"][1, :frames], EXTRACTOR.normalize(clips[0]["features"]))
    assert all(torch.equal(value, collator(rows)[name]) for name, value in batch.items())
    alone = collator(rows[1:])
    assert torch.equal(alone["noise"][0].argsort(), batch["noise"][1, : alone["noise"].shape[1]].argsort())
