"""Converts MATPAC's and MATPAC++'s encoders, pretrained and fine-tuned on AudioSet (Quelennec et al. 2025)."""

from collections.abc import Mapping
from typing import Any

import torch

from ..checkpoint import KeyReport
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
    time_first,
    time_major,
)
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEModel, AudioMAEPreTrainedModel

MEL_BINS = 80
# Of the batch normalisation before the head, which has no weights of its own and becomes a part of the head.
BATCH_NORM_EPS = 1e-5


def convert_matpac(
    tensors: Mapping[str, torch.Tensor], entries: Mapping[str, Any], num_attention_heads: int | None = None
) -> tuple[AudioMAEPreTrainedModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts MATPAC's tensors: an [`AudioMAEForAudioClassification`] with a head, else an [`AudioMAEModel`].

    Args:
        tensors: Tensors by key.
        entries: The other entries of the file, of which none is read.
        num_attention_heads: Heads, which files do not record; hidden size / 64 by default.

    Returns:
        The model (float32), its feature extractor and the report of keys.

    Raises:
        CheckpointError: Keys or shapes that are not MATPAC's, or that contradict each other.
    """
    fields = encoder_sizes(tensors, "student_encoder.blocks", "MATPAC", num_attention_heads)
    patch = shape_of(tensors, "patch_embed.proj.weight", "MATPAC", 4)[-1]
    bands = MEL_BINS // patch
    columns = columns_of(shape_of(tensors, "pos_embed", "MATPAC", 3)[1] - 1, bands, "pos_embed")
    kind = AudioMAEForAudioClassification if "head.weight" in tensors else AudioMAEModel
    if kind is AudioMAEForAudioClassification:
        fields["num_labels"] = shape_of(tensors, "head.weight", "MATPAC", 2)[0]
    config = make_config(
        **fields,
        num_mel_bins=MEL_BINS,
        max_length=columns * patch,
        patch_size=patch,
        pooling="mean" if kind is AudioMAEForAudioClassification else "mean_time_tokens",
    )
    base = "" if kind is AudioMAEModel else "audio_mae."
    names = encoder_names("", base, config.num_hidden_layers, "student_encoder.blocks", "student_encoder.norm")
    computed: dict[str, Any] = {
        base + POSITIONS: (("pos_embed",), lambda table: time_major(table, 1, bands)),
        f"{base}{PATCHES}.weight": (("patch_embed.proj.weight",), time_first),
    }
    if kind is AudioMAEForAudioClassification:
        running = ("head_norm.running_mean", "head_norm.running_var")
        computed["classifier.weight"] = (
            ("head.weight", running[1]), lambda weight, variance: weight / (variance + BATCH_NORM_EPS).sqrt()
        )  # fmt: skip
        computed["classifier.bias"] = (("head.bias", "head.weight", *running), normalized_bias)
    model, report = fill(kind(config), tensors, names | {"cls_token": base + PREFIX}, why_ignored, computed)
    extractor = front_end(
        "matpac", max_length=config.max_length, patch_size=patch, truncation=kind is AudioMAEForAudioClassification
    )
    return model, extractor, report


def normalized_bias(
    bias: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
) -> torch.Tensor:
    """Bias of a head that contains the batch normalisation of its input."""
    return bias - weight @ (mean / (variance + BATCH_NORM_EPS).sqrt())


def why_ignored(key: str) -> str:
    """Reason for the report why a key is not used."""
    return "counts batches in training" if key.endswith("num_batches_tracked") else "not a key of MATPAC's encoder"


MATPAC = System(
    convert=convert_matpac,
    licence="unknown",
    licence_note=(
        "The repository aurianworld/matpac states no licence, neither for its code nor for its weights; it is built on "
        "nttcslab/m2d,\nwhose licence restricts use. Settle this with the authors before any use."
    ),
    citation=(
        'Quelennec et al., "MATPAC: Masked Latent Prediction and Classification for Self-Supervised Audio '
        'Representation Learning", ICASSP 2025, arXiv 2502.12031.'
    ),
    tags=("audio", "matpac", "masked-latent-prediction"),
    remarks=(
        "Longer recordings are encoded in windows of `max_length` frames, whose embeddings are averaged, as in MATPAC. "
        "The batch normalisation before a fine-tuned head is a part of the head's weights here."
    ),
    changes="tokens are in time-major order, so position embeddings are reordered",
)
