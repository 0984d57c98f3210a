"""Converts SSAST's pretrained and fine-tuned checkpoints (Gong et al. 2022)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

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
    names_of,
    shape_of,
    time_first,
    time_major,
)
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEModel, AudioMAEPreTrainedModel

MEL_BINS = 128
POOLINGS = ("mean", "mean_prefix")
# Bands that the official code interpolates the time axis to, whatever the checkpoint has.
INTERPOLATED_BANDS = 8


def resize_positions(table: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Resizes a frequency-major position table (1, 2 + bands * columns, width) as SSAST's fine-tuning models do.

    A shorter time axis is the centre of the old one; other axes are interpolated.

    Args:
        table: Positions, those of the two prefix tokens first.
        old: Bands and columns of the table.
        new: Bands and columns to make.
    """
    if old == new:
        return table
    (bands, columns), (new_bands, new_columns) = old, new
    grid = table[:, 2:].transpose(1, 2).unflatten(2, (bands, columns))
    if new_columns < columns:
        start = columns // 2 - new_columns // 2
        grid = grid[..., start : start + new_columns]
    else:
        grid = F.interpolate(grid, (INTERPOLATED_BANDS, new_columns), mode="bilinear", align_corners=False)
    grid = F.interpolate(grid, (new_bands, new_columns), mode="bilinear", align_corners=False)
    return torch.cat([table[:, :2], grid.flatten(2).transpose(1, 2)], dim=1)


def input_sizes(tensors: Mapping[str, torch.Tensor], prefix: str, max_length: int | None) -> tuple[int, int]:
    """Mel bins and frames of the inputs in pretraining.

    Raises:
        CheckpointError: The checkpoint does not record them, or they are not those of SSAST.
    """
    keys = [f"{prefix}p_input_fdim", f"{prefix}p_input_tdim"]
    if missing := [key for key in keys if key not in tensors]:
        raise CheckpointError(f"The checkpoint has no {' and no '.join(missing)}: this is not a layout of SSAST.")
    mel_bins, frames = (int(tensors[key]) for key in keys)
    if mel_bins != MEL_BINS or frames < 1 or (max_length is not None and max_length < 1):
        raise CheckpointError(
            f"{mel_bins} mel bins, {frames} frames, max_length={max_length}: expected {MEL_BINS} mel bins and a "
            "positive number of frames."
        )
    return mel_bins, frames


def convert_ssast(
    tensors: Mapping[str, torch.Tensor],
    entries: Mapping[str, Any],
    num_attention_heads: int | None = None,
    max_length: int | None = None,
    time_stride: int | None = None,
    mel_stride: int | None = None,
    pooling: str = "mean",
) -> tuple[AudioMAEPreTrainedModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts SSAST's tensors: an [`AudioMAEForAudioClassification`] with a head, else an [`AudioMAEModel`].

    Args:
        tensors: Tensors by key, with or without the prefix `module.` of a parallel model.
        entries: The other entries of the file, of which none is read.
        num_attention_heads: Heads, which files do not record; hidden size / 64 by default.
        max_length: Longest input in frames, to which the positions of a pretrained model are resized; by default the
            length in pretraining. Rounded down to whole patches.
        time_stride: Frames from patch to patch. Positions of a pretrained model are resized to it; of a fine-tuned one,
            it is the stride in fine-tuning, which files do not record. By default patches do not overlap.
        mel_stride: Mel bins from patch to patch, likewise.
        pooling: `"mean"` of the patch tokens, the default in the paper, or `"mean_prefix"`, the mean of class and
            distillation token.

    Returns:
        The model (float32), its feature extractor and the report of keys.

    Raises:
        CheckpointError: Keys, shapes or options that contradict each other or are not SSAST's.
    """
    if pooling not in POOLINGS:
        raise CheckpointError(f"pooling={pooling!r}: SSAST has {' and '.join(map(repr, POOLINGS))}.")
    prefix = "module." if any(key.startswith("module.v.") for key in tensors) else ""
    v, head = f"{prefix}v", f"{prefix}mlp_head.1.weight"
    fields = encoder_sizes(tensors, f"{v}.blocks", "SSAST", num_attention_heads)
    _, _, patch_mel_bins, patch = shape_of(tensors, f"{v}.patch_embed.proj.weight", "SSAST", 4)
    rows = shape_of(tensors, f"{v}.pos_embed", "SSAST", 3)[1] - 2
    strides = mel_stride or patch_mel_bins, time_stride or patch
    if not (0 < strides[0] <= patch_mel_bins and 0 < strides[1] <= patch):
        raise CheckpointError(f"Strides of {strides} are not within 1 and the patch, {(patch_mel_bins, patch)}.")
    bands = (MEL_BINS - patch_mel_bins) // strides[0] + 1
    if head in tensors:
        if time_stride is None or mel_stride is None or max_length is not None:
            raise CheckpointError(
                "Fine-tuned SSAST does not record its strides and keeps its length: give --time_stride and "
                "--mel_stride of fine-tuning (10 in the official recipes), and no --max_length."
            )
        columns = columns_of(rows, bands, f"{v}.pos_embed")
        old_grid = bands, columns
    else:
        mel_bins, frames = input_sizes(tensors, prefix, max_length)
        old_grid = mel_bins // patch_mel_bins, frames // patch
        if old_grid[0] * old_grid[1] != rows:
            raise CheckpointError(f"{v}.pos_embed has {rows} positions of patches, expected {old_grid} (mel, time).")
        columns = ((max_length or frames) - patch) // strides[1] + 1
        if columns < 1:
            raise CheckpointError(f"max_length={max_length} is less than a patch of {patch} frames.")
    kind = AudioMAEForAudioClassification if head in tensors else AudioMAEModel
    if head in tensors:
        fields |= {"num_labels": shape_of(tensors, head, "SSAST", 2)[0], "classifier_layer_norm_eps": 1e-5}
    config = make_config(
        **fields,
        num_mel_bins=MEL_BINS,
        max_length=patch + (columns - 1) * strides[1],
        patch_size=patch,
        patch_mel_bins=None if patch_mel_bins == patch else patch_mel_bins,
        time_stride=None if strides[1] == patch else strides[1],
        mel_stride=None if strides[0] == patch_mel_bins else strides[0],
        num_prefix_tokens=2,
        pooling=pooling,
    )
    base = "" if kind is AudioMAEModel else "audio_mae."
    names = encoder_names(f"{v}.", base, config.num_hidden_layers)
    if kind is AudioMAEForAudioClassification:
        names |= names_of(f"{prefix}mlp_head.0", "classifier_layernorm") | names_of(f"{prefix}mlp_head.1", "classifier")

    def positions(table: torch.Tensor) -> torch.Tensor:
        return time_major(resize_positions(table, old_grid, (bands, columns)), 2, bands)

    model, report = fill(
        kind(config), tensors, names, lambda key: why_ignored(key.removeprefix(prefix)),
        {
            base + PREFIX: ((f"{v}.cls_token", f"{v}.dist_token"), lambda *both: torch.cat(both, dim=1)),
            base + POSITIONS: ((f"{v}.pos_embed",), positions),
            f"{base}{PATCHES}.weight": ((f"{v}.patch_embed.proj.weight",), time_first),
        },
    )  # fmt: skip
    extractor = front_end(
        "ssast", max_length=config.max_length, patch_size=patch, time_stride=config.time_stride,
        truncation=kind is AudioMAEForAudioClassification,
    )  # fmt: skip
    return model, extractor, report


def why_ignored(key: str) -> str:
    """Reason for the report why a key is not used."""
    if key.startswith("v.head"):
        return "a layer of 1000 classes that SSAST never uses"
    if key.startswith(("mask_embed", "cpredlayer", "gpredlayer")):
        return "belongs to pretraining"
    if key.startswith("p_input_"):
        return "read for the size of the input in pretraining"
    return "not a key of SSAST"


SSAST = System(
    convert=convert_ssast,
    licence="bsd-3-clause",
    licence_note="Code and weights of YuanGongND/ssast are under the BSD 3-Clause licence.",
    citation='Gong et al., "SSAST: Self-Supervised Audio Spectrogram Transformer", AAAI 2022, arXiv 2110.09784.',
    tags=("audio", "ssast", "audio-spectrogram-transformer"),
    remarks=(
        "SSAST's own scripts pad each clip to a fixed length and attend to the padding: call the feature extractor "
        'with `padding="max_length"` for their embeddings. Its position embeddings are learned; here they stay as they '
        "are when the model is tuned."
    ),
    changes="tokens are in time-major order, so position embeddings are reordered, and resized if that was asked for",
)
