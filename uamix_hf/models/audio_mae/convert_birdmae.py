"""Converts Bird-MAE's checkpoints: released encoders, pretraining and fine-tuning (Rauch et al. 2025)."""

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
    Computed,
    block_names,
    columns_of,
    encoder_names,
    encoder_sizes,
    fill,
    make_config,
    names_of,
    shape_of,
)
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import (
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    AudioMAEPreTrainedModel,
)

MEL_BINS = 128
MASK_RATIO = 0.75
DECODER = (("embed", "embed"), ("norm", "layernorm"), ("pred", "predict"))


def convert_birdmae(
    tensors: Mapping[str, torch.Tensor],
    entries: Mapping[str, Any],
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
) -> tuple[AudioMAEPreTrainedModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts Bird-MAE's tensors.

    With a decoder it is an [`AudioMAEForPreTraining`], with a head an [`AudioMAEForAudioClassification`], else an
    [`AudioMAEModel`].

    Args:
        tensors: Tensors by key, without the wrapper.
        entries: The other entries of the file, of which none is read.
        num_attention_heads: Heads of the encoder, which files do not record; hidden size / 64 by default.
        decoder_num_attention_heads: Heads of the decoder; its hidden size / 32 by default.

    Returns:
        The model (float32), its feature extractor and the report of keys.

    Raises:
        CheckpointError: Keys or shapes that are not Bird-MAE's, or that contradict each other.
    """
    pretraining = "decoder.decoder_embed.weight" in tensors
    prefix = "encoder." if pretraining else ""
    fields = encoder_sizes(tensors, f"{prefix}blocks", "Bird-MAE", num_attention_heads)
    patch = shape_of(tensors, f"{prefix}patch_embed.proj.weight", "Bird-MAE", 4)[-1]
    bands = MEL_BINS // patch
    columns = columns_of(shape_of(tensors, f"{prefix}pos_embed", "Bird-MAE", 3)[1] - 1, bands, f"{prefix}pos_embed")
    kind: type[AudioMAEPreTrainedModel] = AudioMAEModel
    if pretraining:
        kind = AudioMAEForPreTraining
        fields |= decoder_sizes(tensors, decoder_num_attention_heads)
    elif "head.weight" in tensors:
        kind = AudioMAEForAudioClassification
        fields["num_labels"] = shape_of(tensors, "head.weight", "Bird-MAE", 2)[0]
    config = make_config(
        **fields, num_mel_bins=MEL_BINS, max_length=columns * patch, patch_size=patch, pooling="mean_two_norms"
    )
    base = "" if kind is AudioMAEModel else "audio_mae."
    names = encoder_names(prefix, base, config.num_hidden_layers) | {
        f"{prefix}cls_token": base + PREFIX,
        f"{prefix}pos_embed": base + POSITIONS,
        f"{prefix}patch_embed.proj.weight": f"{base}{PATCHES}.weight",
    }
    computed: Computed = {}
    if pretraining:
        names |= {
            "decoder.mask_token": "decoder.mask_token",
            "decoder.decoder_pos_embed": "decoder.position_embeddings",
        }
        names |= names_of("decoder.decoder_", "decoder.", DECODER)
        names |= block_names("decoder.blocks", "decoder.layers", config.decoder_num_hidden_layers)
        # Pretraining has no such LayerNorm: the official encoder starts with this one.
        size = config.hidden_size
        computed = {
            f"{base}fc_norm.weight": ((), lambda: torch.ones(size)),
            f"{base}fc_norm.bias": ((), lambda: torch.zeros(size)),
        }
    else:
        names |= names_of("fc_norm", f"{base}fc_norm")
    if kind is AudioMAEForAudioClassification:
        names |= names_of("head", "classifier")
    model, report = fill(kind(config), tensors, names, lambda key: "not a key of Bird-MAE", computed)
    extractor = front_end(
        "birdmae", max_length=config.max_length, patch_size=patch, truncation=kind is AudioMAEForAudioClassification
    )
    return model, extractor, report


def decoder_sizes(tensors: Mapping[str, torch.Tensor], heads: int | None) -> dict[str, Any]:
    """Reads the fields of the configuration that describe the decoder.

    Raises:
        CheckpointError: Keys are missing, or the number of heads does not divide the hidden size.
    """
    size = shape_of(tensors, "decoder.decoder_embed.weight", "Bird-MAE", 2)[0]
    sizes = encoder_sizes(tensors, "decoder.blocks", "Bird-MAE", 1)
    heads = heads or size // 32
    if heads < 1 or size % heads:
        raise CheckpointError(
            f"{heads} heads do not divide the decoder's hidden size {size}. Checkpoints do not record the number of "
            "heads: give --decoder_num_attention_heads."
        )
    return {
        "decoder_hidden_size": size,
        "decoder_num_hidden_layers": sizes["num_hidden_layers"],
        "decoder_num_attention_heads": heads,
        "decoder_intermediate_size": sizes["intermediate_size"],
        "mask_ratio": MASK_RATIO,
    }


BIRDMAE = System(
    convert=convert_birdmae,
    licence="unknown",
    licence_note=(
        "The repository DBD-research-group/Bird-MAE has no licence file, neither for its code nor for its weights. "
        "Settle this with the authors before any use."
    ),
    citation='Rauch et al., "Can Masked Autoencoders Also Listen to Birds?", 2025, arXiv 2504.12880.',
    tags=("audio", "bird-mae", "masked-autoencoder", "bioacoustics"),
    remarks=(
        "Bird-MAE's own code pads clips to 5 s of audio and then to 512 frames with the smallest log-mel of the batch: "
        'call the feature extractor with\n`padding="max_length"`, which pads each clip with its own smallest log-mel, '
        "as the official code does with one clip at a time."
    ),
)
