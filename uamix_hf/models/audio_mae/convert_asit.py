"""Converts ASiT's pretraining checkpoints (Ahmed et al. 2024): the teacher's or the student's encoder."""

from collections.abc import Mapping
from typing import Any

import torch

from ..checkpoint import CheckpointError, KeyReport
from ..front_ends import front_end
from ..system import System
from ..vit_layout import (
    PATCHES,
    POSITIONS,
    PREFIX,
    columns_of,
    encoder_names,
    encoder_sizes,
    fill,
    make_config,
    shape_of,
)
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import AudioMAEModel

MEL_BINS = 128
# The student is saved as a distributed model.
PREFIXES = {"teacher": "teacher.backbone.", "student": "student.module.backbone."}


def convert_asit(
    tensors: Mapping[str, torch.Tensor],
    entries: Mapping[str, Any],
    num_attention_heads: int | None = None,
    network: str = "teacher",
) -> tuple[AudioMAEModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts ASiT's tensors.

    Args:
        tensors: Tensors by key, below `teacher.` and `student.`.
        entries: The other entries of the file, of which none is read.
        num_attention_heads: Heads, which the tensors do not record; hidden size / 64 by default.
        network: `"teacher"`, the moving average of the student, or `"student"`.

    Returns:
        The encoder (float32), its feature extractor and the report of keys.

    Raises:
        CheckpointError: Keys, shapes or options that are not ASiT's, or that contradict each other.
    """
    if network not in PREFIXES:
        raise CheckpointError(f"network={network!r}: ASiT has {' and '.join(map(repr, PREFIXES))}.")
    prefix = PREFIXES[network]
    fields = encoder_sizes(tensors, f"{prefix}blocks", "ASiT", num_attention_heads)
    patch = shape_of(tensors, f"{prefix}patch_embed.proj.weight", "ASiT", 4)[-1]
    rows = shape_of(tensors, f"{prefix}pos_embed", "ASiT", 3)[1] - 1
    config = make_config(
        **fields,
        num_mel_bins=MEL_BINS,
        max_length=columns_of(rows, MEL_BINS // patch, f"{prefix}pos_embed") * patch,
        patch_size=patch,
        pooling="cls",
    )
    names = encoder_names(prefix, "", config.num_hidden_layers) | {
        f"{prefix}cls_token": PREFIX,
        f"{prefix}pos_embed": POSITIONS,
        f"{prefix}patch_embed.proj.weight": f"{PATCHES}.weight",
    }
    model, report = fill(AudioMAEModel(config), tensors, names, lambda key: why_ignored(key, prefix))
    return model, front_end("asit", max_length=config.max_length, patch_size=patch), report


def why_ignored(key: str, prefix: str) -> str:
    """Reason for the report why a key is not used."""
    if key.startswith(prefix):
        return "not a key of ASiT"
    if key.startswith(tuple(PREFIXES.values())):
        return "belongs to the other network"
    return "belongs to pretraining"


ASIT = System(
    convert=convert_asit,
    licence="unknown",
    licence_note=(
        "The repository Sara-Ahmed/ASiT has no licence file, neither for its code nor for its weights. Settle this "
        "with the authors before any use."
    ),
    citation=(
        'Ahmed et al., "ASiT: Local-Global Audio Spectrogram vIsion Transformer for Event Classification", IEEE/ACM '
        "TASLP 2024, arXiv 2211.13189."
    ),
    tags=("audio", "asit", "audio-spectrogram-transformer"),
    remarks=(
        "ASiT's own code pads clips with zeros to 6 s of audio and attends to them: call the feature extractor with "
        '`padding="max_length"` for its embeddings. Its position embeddings are learned; here they stay as they are '
        "when the model is tuned."
    ),
)
