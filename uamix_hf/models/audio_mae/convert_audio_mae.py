"""Converts Audio-MAE's released checkpoints, and those of its timm port (docs/concepts/method.md, Checkpoints)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..checkpoint import CheckpointError, KeyReport
from ..system import System
from ..vit_layout import BLOCK, fill
from .configuration_audio_mae import AudioMAEConfig
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import (
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    AudioMAEPreTrainedModel,
)

# Their names -> ours. WINDOW_BIAS exists in the layers of the local decoder only.
STEM = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
}
WINDOW_BIAS = {"attn.meta_mlp.fc1": "attention.bias_fc1", "attn.meta_mlp.fc2": "attention.bias_fc2"}
DECODER = {
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.position_embeddings",
    "decoder_embed.weight": "decoder.embed.weight",
    "decoder_embed.bias": "decoder.embed.bias",
    "decoder_norm.weight": "decoder.layernorm.weight",
    "decoder_norm.bias": "decoder.layernorm.bias",
    "decoder_pred.weight": "decoder.predict.weight",
    "decoder_pred.bias": "decoder.predict.bias",
}


def layout(config: AudioMAEConfig, kind: type[AudioMAEPreTrainedModel]) -> Iterator[tuple[str, str]]:
    """Every key of a checkpoint that belongs to the model class `kind`, and our name for it."""

    def block(theirs: str, ours: str, table: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, our_name in table.items():
            for suffix in ("weight", "bias"):
                yield f"{theirs}.{name}.{suffix}", f"{ours}.{our_name}.{suffix}"

    base = "" if kind is AudioMAEModel else "audio_mae."
    yield from ((theirs, base + ours) for theirs, ours in STEM.items())
    for i in range(config.num_hidden_layers):
        yield from block(f"blocks.{i}", f"{base}layers.{i}", BLOCK)
    norm, our_norm = ("fc_norm", "fc_norm") if config.pooling == "mean_fc_norm" else ("norm", "layernorm")
    yield from ((f"{norm}.{suffix}", f"{base}{our_norm}.{suffix}") for suffix in ("weight", "bias"))
    if kind is AudioMAEForAudioClassification:
        yield from ((f"head.{suffix}", f"classifier.{suffix}") for suffix in ("weight", "bias"))
    if kind is AudioMAEForPreTraining:
        yield from DECODER.items()
        local = config.decoder_type == "local"
        for i in range(config.decoder_num_hidden_layers):
            theirs, ours = f"decoder_blocks.{i}", f"decoder.layers.{i}"
            yield from block(theirs, ours, BLOCK | WINDOW_BIAS if local else BLOCK)
            if local:
                yield f"{theirs}.attn.tau", f"{ours}.attention.tau"


def read_config(
    tensors: Mapping[str, torch.Tensor],
    arguments: Any,
    num_attention_heads: int | None,
    decoder_num_attention_heads: int | None,
) -> tuple[AudioMAEConfig, type[AudioMAEPreTrainedModel]]:
    """Reads the sizes from the tensors' shapes, and the model class from the keys.

    Raises:
        CheckpointError: Keys or shapes that are not Audio-MAE's.
    """

    def shape(key: str) -> torch.Size:
        if key not in tensors:
            raise CheckpointError(f"The checkpoint has no {key}: this is not a layout of Audio-MAE.")
        return tensors[key].shape

    def depth(prefix: str) -> int:
        return 1 + max((int(key.split(".")[1]) for key in tensors if key.startswith(f"{prefix}.")), default=-1)

    def heads(width: int, given: int | None, per_head: int, flag: str) -> int:
        count = given or width // per_head
        if count < 1 or width % count:
            raise CheckpointError(
                f"{count} heads do not divide a hidden size of {width}. Checkpoints do not record them: give {flag}."
            )
        return count

    width, patch = shape("cls_token")[-1], shape("patch_embed.proj.weight")[-1]
    mel_bins = 128
    if mel_bins % patch:
        raise CheckpointError(
            f"Patches of {patch} do not divide {mel_bins} mel bins: this is not a layout of Audio-MAE."
        )
    fields: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth("blocks"),
        "num_attention_heads": heads(width, num_attention_heads, 64, "--num_attention_heads"),
        "intermediate_size": shape("blocks.0.mlp.fc1.weight")[0],
        "patch_size": patch,
        "num_mel_bins": mel_bins,
        "max_length": (shape("pos_embed")[1] - 1) // (mel_bins // patch) * patch,
        "pooling": "mean_fc_norm" if "fc_norm.weight" in tensors and "norm.weight" not in tensors else "mean",
    }
    if "decoder_embed.weight" in tensors:
        kind: type[AudioMAEPreTrainedModel] = AudioMAEForPreTraining
        decoder_width = shape("decoder_embed.weight")[0]
        tau = tensors.get("decoder_blocks.0.attn.tau")
        given = decoder_num_attention_heads if tau is None else len(tau)  # one temperature per head
        fields |= {
            "decoder_type": "global" if tau is None else "local",
            "decoder_hidden_size": decoder_width,
            "decoder_num_hidden_layers": depth("decoder_blocks"),
            "decoder_num_attention_heads": heads(decoder_width, given, 32, "--decoder_num_attention_heads"),
            "decoder_intermediate_size": shape("decoder_blocks.0.mlp.fc1.weight")[0],
        }
        if tau is not None:
            fields["decoder_bias_hidden_size"] = shape("decoder_blocks.0.attn.meta_mlp.fc1.weight")[0]
        fields |= {
            name: getattr(arguments, name) for name in ("norm_pix_loss", "mask_ratio") if hasattr(arguments, name)
        }
    elif "head.weight" in tensors:
        kind = AudioMAEForAudioClassification
        # Audio-MAE deletes `norm` before it fine-tunes and makes a new `fc_norm`, so a head comes with that.
        fields |= {"num_labels": shape("head.weight")[0], "pooling": "mean_fc_norm"}
    else:
        kind = AudioMAEModel
    try:
        return AudioMAEConfig(**fields), kind
    except StrictDataclassError as error:
        raise CheckpointError(f"The checkpoint's sizes or arguments are not valid: {error}") from error


def why_ignored(key: str) -> str:
    """Reason for the report why a key is not used."""
    if key.startswith(("decoder", "mask_token")):
        return "belongs to a decoder of which other parts are missing"
    if key.startswith(("norm.", "fc_norm.")):
        return "the pooled output passes the other one of norm and fc_norm"
    return "not a key of Audio-MAE"


def convert_audiomae(
    tensors: Mapping[str, torch.Tensor],
    entries: Mapping[str, Any],
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
) -> tuple[AudioMAEPreTrainedModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts Audio-MAE's tensors to a model of this package.

    With a decoder it is an [`AudioMAEForPreTraining`], with a head an [`AudioMAEForAudioClassification`], else an
    [`AudioMAEModel`].

    Args:
        tensors: Tensors by key, without the wrapper.
        entries: The other entries of the file; `args` are the training arguments.
        num_attention_heads: Heads of the encoder, which files do not record; hidden size / 64 by default.
        decoder_num_attention_heads: Heads of the decoder; its hidden size / 32 by default.

    Returns:
        The model (float32), its feature extractor and the report of keys. If `report.missing` is not empty, the model
        is incomplete and must not be used; the command does not write it.

    Raises:
        CheckpointError: Keys or shapes that are not Audio-MAE's, or that contradict each other.
    """
    config, kind = read_config(tensors, entries.get("args"), num_attention_heads, decoder_num_attention_heads)
    model, report = fill(kind(config), tensors, dict(layout(config, kind)), why_ignored)
    extractor = AudioMAEFeatureExtractor(
        num_mel_bins=config.num_mel_bins,
        max_length=config.max_length,
        patch_size=config.patch_size,
        truncation=kind is AudioMAEForAudioClassification,  # as transformers' own classifiers treat long recordings
    )
    return model, extractor, report


# The LICENSE file says CC BY-NC 4.0, the README CC BY 4.0: with the stricter one, users are safe.
AUDIOMAE_LICENCE = "cc-by-nc-4.0"
AUDIOMAE = System(
    convert=convert_audiomae,
    licence=AUDIOMAE_LICENCE,
    licence_note=(
        "The licence of these weights is contradictory at its source: the LICENSE file of facebookresearch/AudioMAE "
        "says CC BY-NC 4.0,\nits README says CC BY 4.0, and ports of the weights state either. **CC BY-NC 4.0 (no "
        "commercial use) is assumed here.**\nSettle this with the authors before any other use."
    ),
    citation='Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022, arXiv 2207.06405.',
    tags=("audio", "audio-mae", "masked-autoencoder"),
)
