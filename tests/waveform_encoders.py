"""Encoders of waveforms with random weights, one for each way in which transformers builds them."""

from typing import Any

import torch
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    HubertConfig,
    PreTrainedModel,
    SEWConfig,
    SEWDConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    WavLMConfig,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
         "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}  # fmt: skip
SEW = SIZES | {"conv_dim": (16,) * 13}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}  # as the larger models of most classes
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "wav2vec2": (Wav2Vec2Config, SIZES),
    "wav2vec2-large": (Wav2Vec2Config, SIZES | LARGE),
    "wav2vec2-adapter": (Wav2Vec2Config, SIZES | LARGE | {"add_adapter": True, "output_hidden_size": 24}),
    "hubert": (HubertConfig, SIZES),
    "hubert-large": (HubertConfig, SIZES | LARGE),
    "hubert-batch-norm": (HubertConfig, SIZES | {"feat_extract_norm": "layer", "conv_pos_batch_norm": True}),
    "wavlm": (WavLMConfig, SIZES),
    "wavlm-large": (WavLMConfig, SIZES | LARGE),
    "data2vec": (Data2VecAudioConfig, SIZES | {"num_conv_pos_embeddings": 3}),
    "unispeech": (UniSpeechConfig, SIZES),
    "unispeech-sat": (UniSpeechSatConfig, SIZES | LARGE),
    "sew": (SEWConfig, SEW),
    "sew-d": (SEWDConfig, SEW),
    "conformer": (Wav2Vec2ConformerConfig, SIZES | {"feat_extract_norm": "layer"}),
}
# What differs from pass to pass in training mode, apart from the adapter's own.
DROPOUTS = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "conformer_conv_dropout")


def without_dropout(kind: str) -> dict[str, float]:
    """Fields of a configuration that leave an encoder without dropout."""
    return {name: 0.0 for name in DROPOUTS if hasattr(KINDS[kind][0](), name)}


def waveform_encoder(kind: str, **config: Any) -> PreTrainedModel:
    """A small encoder of one of `KINDS` with random weights, in evaluation mode."""
    torch.manual_seed(0)
    made, fields = KINDS[kind]
    encoder = AutoModel.from_config(made(**fields | config))
    for parameter in encoder.parameters():  # fresh norms and biases are too equal to show an error
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return encoder.eval()
