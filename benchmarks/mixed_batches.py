"""Batches of clips of mixed lengths, as LengthBucketTrainer makes them."""

import torch
from training_steps import make_clips

from uamix_hf.data.batches import LengthBucketSampler

MIXED = {"1 to 10 s": (1.0, 10.0), "1 to 5 s": (1.0, 5.0)}  # the shortest and the longest clip
EPOCH, TAKEN = 50, 5  # batches of an epoch, and how many of them are measured
SECONDS = 10  # of the clips that are cut


def mixed_batches(batch: int, shortest: float, longest: float) -> list[dict[str, torch.Tensor]]:
    """TAKEN of the EPOCH batches that the sampler makes of clips whose lengths are spread evenly, evenly by length."""
    lengths = torch.linspace(100 * shortest - 2, 100 * longest - 2, EPOCH * batch).round().long()
    epoch = torch.tensor([int(row) for row in LengthBucketSampler(lengths.tolist(), batch)]).view(EPOCH, batch)
    in_order = sorted((lengths[rows] for rows in epoch), key=lambda chosen: int(chosen.max()))
    batches = []
    for chosen in in_order[EPOCH // TAKEN // 2 :: EPOCH // TAKEN]:
        whole = make_clips(batch, SECONDS)["input_values"][:, : -(-int(chosen.max()) // 16) * 16]
        valid = torch.arange(whole.shape[1]) < chosen[:, None]
        batches.append({"input_values": whole * valid[..., None], "attention_mask": valid.long()})
    return batches
