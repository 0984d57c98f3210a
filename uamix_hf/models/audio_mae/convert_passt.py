"""Converts PaSST's checkpoints (Koutini et al. 2022), which were trained with labels of AudioSet."""

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
    encoder_names,
    encoder_sizes,
    fill,
    make_config,
    names_of,
    shape_of,
    time_first,
)
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import AudioMAEForAudioClassification

MEL_BINS = 128


def stride_of(bands: int, patch: int) -> int:
    """Largest stride at which this many patches fit into the mel bins; it is that of the time axis, too.

    Raises:
        CheckpointError: No stride up to the patch's size does.
    """
    for stride in range(patch, 0, -1):
        if (MEL_BINS - patch) // stride + 1 == bands:
            return stride
    raise CheckpointError(
        f"freq_new_pos_embed has {bands} positions, which patches of {patch} mel bins have at no stride up to {patch}: "
        "larger strides skip mel bins and are not supported."
    )


def factorised_positions(prefix: torch.Tensor, time: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
    """Adds positions in time (1, width, 1, columns) and frequency (1, width, bands, 1) to a time-major table."""
    grid = time + mel
    return torch.cat([prefix, grid.transpose(2, 3).flatten(2).transpose(1, 2)], dim=1)


def convert_passt(
    tensors: Mapping[str, torch.Tensor], entries: Mapping[str, Any], num_attention_heads: int | None = None
) -> tuple[AudioMAEForAudioClassification, AudioMAEFeatureExtractor, KeyReport]:
    """Converts PaSST's tensors.

    Args:
        tensors: Tensors by key.
        entries: The other entries of the file, of which none is read.
        num_attention_heads: Heads, which files do not record; hidden size / 64 by default.

    Returns:
        The classifier (float32), its feature extractor and the report of keys.

    Raises:
        CheckpointError: Keys or shapes that are not PaSST's, or that contradict each other.
    """
    fields = encoder_sizes(tensors, "blocks", "PaSST", num_attention_heads)
    patch = shape_of(tensors, "patch_embed.proj.weight", "PaSST", 4)[-1]
    stride = stride_of(shape_of(tensors, "freq_new_pos_embed", "PaSST", 4)[2], patch)
    columns = shape_of(tensors, "time_new_pos_embed", "PaSST", 4)[3]
    overlap = None if stride == patch else stride
    config = make_config(
        **fields,
        num_labels=shape_of(tensors, "head.1.weight", "PaSST", 2)[0],
        problem_type="multi_label_classification",
        num_mel_bins=MEL_BINS,
        max_length=patch + (columns - 1) * stride,
        patch_size=patch,
        time_stride=overlap,
        mel_stride=overlap,
        num_prefix_tokens=2,
        pooling="mean_prefix",
        classifier_layer_norm_eps=1e-5,
    )
    names = encoder_names("", "audio_mae.", config.num_hidden_layers)
    names |= names_of("head.0", "classifier_layernorm") | names_of("head.1", "classifier")
    tables = ("new_pos_embed", "time_new_pos_embed", "freq_new_pos_embed")
    model, report = fill(
        AudioMAEForAudioClassification(config), tensors, names, why_ignored,
        {
            f"audio_mae.{PREFIX}": (("cls_token", "dist_token"), lambda *both: torch.cat(both, dim=1)),
            f"audio_mae.{POSITIONS}": (tables, factorised_positions),
            f"audio_mae.{PATCHES}.weight": (("patch_embed.proj.weight",), time_first),
        },
    )  # fmt: skip
    report.notes.append(f"a stride of {stride} in mel bins and frames, from the number of positions in frequency")
    extractor = front_end("passt", max_length=config.max_length, patch_size=patch, time_stride=overlap, truncation=True)
    return model, extractor, report


def why_ignored(key: str) -> str:
    """Reason for the report why a key is not used."""
    return "PaSST never uses this head" if key.startswith("head_dist") else "not a key of PaSST"


PASST = System(
    convert=convert_passt,
    licence="apache-2.0",
    licence_note="Code and weights of kkoutini/PaSST are under the Apache 2.0 licence.",
    citation=(
        'Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022, arXiv 2110.05069.'
    ),
    tags=("audio", "passt", "audio-spectrogram-transformer"),
    remarks=(
        "PaSST was trained with labels of AudioSet, not self-supervised. The HEAR benchmark's scene embedding is the "
        "logits and `pooler_output` side by side; for recordings longer than 10 s the benchmark's windows overlap, "
        "while `AudioEmbedder`'s follow each other."
    ),
    changes="tokens are in time-major order, and positions in time and frequency are added to one table",
)
