"""BEATs (Chen et al., ICML 2023) and OpenBEATs (Bharadwaj et al., 2025) encoders as transformers models."""

import math
import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_beats import BeatsConfig


def frames_to_tokens(attention_mask: torch.Tensor, config: BeatsConfig) -> torch.Tensor:
    """Converts a frame mask to a token mask, see `BeatsConfig.token_padding`.

    Args:
        attention_mask: Frame mask (batch, frames), 1 = valid. Trailing frames that do not fill a patch have no token.
        config: Configuration of the model.

    Returns:
        Valid tokens (batch, tokens), bool, in time-major order.
    """
    columns, rows = attention_mask.shape[1] // config.patch_size, config.num_mel_patches
    valid = attention_mask[:, : columns * config.patch_size].bool()
    if config.token_padding == "any":
        return valid.unflatten(1, (columns, config.patch_size)).all(-1).repeat_interleave(rows, dim=1)
    return valid.unflatten(1, (columns * rows, config.patch_size // rows)).any(-1)


def relative_position_buckets(distance: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """Bucket of each relative position: exact for near tokens, logarithmic beyond, one half for each direction.

    Args:
        distance: Key index minus query index, int64, any shape.
        num_buckets: Number of buckets of both directions.
        max_distance: Distance from which on all positions share the last bucket of their direction.

    Returns:
        Bucket indices, int64, of the same shape.
    """
    half = num_buckets // 2
    exact = half // 2
    magnitude = distance.abs()
    ratio = magnitude.clamp_min(exact).to(torch.float32) / exact
    far = exact + (ratio.log() / math.log(max_distance / exact) * (half - exact)).long()
    bucket = torch.where(magnitude < exact, magnitude, far.clamp_max(half - 1))
    return torch.where(distance > 0, bucket + half, bucket)


class BeatsPatchEmbeddings(nn.Module):
    """Projects patches of a log-mel spectrogram (batch, frames, mel bins) to (batch, tokens, patch_embedding_size)."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Conv2d(1, config.patch_embedding_size, config.patch_size, config.patch_size, bias=False)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        bins, side = self.config.num_mel_bins, self.config.patch_size
        if input_values.ndim != 3 or input_values.shape[2] != bins:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}, expected (batch, frames, {bins}): the log-mel "
                "spectrograms of the feature extractor that is saved with the model."
            )
        if input_values.shape[1] < side:
            raise ValueError(
                f"input_values has {input_values.shape[1]} frames, fewer than patch_size={side}: pad with the feature "
                "extractor, which also makes the attention_mask."
            )
        return self.projection(input_values[:, None]).flatten(2).transpose(1, 2)


class BeatsEmbeddings(nn.Module):
    """Token embeddings (batch, tokens, hidden_size), time-major: token `t * num_mel_patches + f`."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        size = config.patch_embedding_size
        self.patch_embeddings = BeatsPatchEmbeddings(config)
        self.layernorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.projection = nn.Identity() if size == config.hidden_size else nn.Linear(size, config.hidden_size)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings(input_values.to(self.patch_embeddings.projection.weight.dtype))
        return self.projection(self.layernorm(patches))


class BeatsPositionConv(nn.Module):
    """Adds a convolutional position embedding over the flattened token sequence.

    The released models use weight normalisation here. Its product is stored as a plain weight: it computes the same,
    and needs no parametrisation that initialisation, saving and quantisation have to know.
    """

    def __init__(self, config: BeatsConfig):
        super().__init__()
        width, kernel = config.hidden_size, config.num_conv_pos_embeddings
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.num_conv_pos_embedding_groups)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # An even kernel gives one output more than there are tokens.
        positions = self.conv(hidden_states.transpose(1, 2))[..., : hidden_states.shape[1]]
        return hidden_states + F.gelu(positions).transpose(1, 2)


class BeatsRelativePositionBias(nn.Module):
    """Attention bias of relative positions before gating; all layers share it."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.num_buckets, config.num_attention_heads)

    def forward(self, tokens: int) -> torch.Tensor:
        """Bias of every query and key, (heads, tokens, tokens)."""
        place = torch.arange(tokens, device=self.embedding.weight.device)
        # There are only 2 * tokens - 1 distances: looked up once each, then spread over the pairs.
        distance = torch.arange(1 - tokens, tokens, device=place.device)
        buckets = relative_position_buckets(distance, self.config.num_buckets, self.config.max_bucket_distance)
        return self.embedding(buckets).T[:, place[None] - place[:, None] + tokens - 1]


def xavier_linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """Linear layer that remembers its gain: transformers initialises each module on its own."""
    linear = nn.Linear(inputs, outputs)
    linear.initializer_gain = gain  # type: ignore[assignment]
    return linear


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in plain PyTorch, which also returns the attention weights."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class BeatsAttention(nn.Module):
    """Self-attention with a relative position bias that each query gates (as in WavLM, Chen et al. 2022)."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = xavier_linear(width, width)
        self.k_proj = xavier_linear(width, width)
        self.v_proj = xavier_linear(width, width, config.residual_gain)
        self.o_proj = xavier_linear(width, width, config.residual_gain)
        self.gate_proj = nn.Linear(self.head_dim, 8)
        self.gate_scale = nn.Parameter(torch.ones(1, config.num_attention_heads, 1, 1))

    def gated_bias(self, query: torch.Tensor, position_bias: torch.Tensor) -> torch.Tensor:
        """Scales the position bias (heads, queries, keys) by a gate of each query, to (batch, heads, queries, keys)."""
        first, second = self.gate_proj(query).unflatten(-1, (2, 4)).sum(-1, keepdim=True).sigmoid().unbind(-2)
        return (first * (second * self.gate_scale - 1) + 2) * position_bias

    def forward(
        self, hidden_states: torch.Tensor, position_bias: torch.Tensor, valid: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attends to all valid tokens.

        Args:
            hidden_states: (batch, tokens, hidden_size).
            position_bias: (heads, tokens, tokens).
            valid: Valid tokens (batch, tokens), bool, or None where none is padding.

        Returns:
            Output (batch, tokens, hidden_size), and attention weights (batch, heads, tokens, tokens) or None, if the
            implementation has none.
        """
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = self.gated_bias(query, position_bias).to(query.dtype)
        if valid is not None:
            bias = bias.masked_fill(~valid[:, None, None], torch.finfo(bias.dtype).min)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        output, weights = attend(self, query, key, value, bias, dropout=dropout, scaling=self.scaling)
        return self.o_proj(output.flatten(2)), weights


class BeatsMLP(nn.Module):
    """Feed-forward network."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.activation_dropout)
        self.fc1 = xavier_linear(config.hidden_size, config.intermediate_size, config.residual_gain)
        self.fc2 = xavier_linear(config.intermediate_size, config.hidden_size, config.residual_gain)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(self.activation_fn(self.fc1(hidden_states))))


class BeatsLayer(GradientCheckpointingLayer):
    """Post-norm transformer layer with scaled residual connections."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.residual_scale = config.residual_scale
        self.attention = BeatsAttention(config)
        self.attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BeatsMLP(config)
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, position_bias: torch.Tensor, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        attended, _ = self.attention(hidden_states, position_bias, valid)
        hidden_states = self.attention_layernorm(self.residual_scale * hidden_states + self.dropout(attended))
        output = self.dropout(self.mlp(hidden_states))
        return self.final_layernorm(self.residual_scale * hidden_states + output)


class BeatsPreTrainedModel(PreTrainedModel):
    """Base class: initialisation, saving, and what the models support."""

    config: BeatsConfig
    base_model_prefix = "beats"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    # The losses are means over the batch; the Trainer must divide them by its accumulation steps.
    accepts_loss_kwargs = False
    # Any number of frames, with a frame-level attention_mask: read by uamix_hf's encoder contract.
    variable_length = True
    _no_split_modules = ["BeatsEmbeddings", "BeatsLayer"]
    # The bias of every pair of tokens is an additive mask. Flash attention takes none.
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": BeatsLayer, "attentions": BeatsAttention}
    _input_embed_layer = "patch_embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises a module: DeepNet's Xavier gains in the layers, normal distributions elsewhere."""
        super()._init_weights(module)
        if isinstance(module, BeatsAttention):
            init.ones_(module.gate_scale)
        elif isinstance(module, nn.Conv1d):
            width, kernel = self.config.hidden_size, self.config.num_conv_pos_embeddings
            init.normal_(module.weight, std=2 / math.sqrt(width * kernel))  # as in wav2vec 2.0
        elif isinstance(module, nn.Linear) and hasattr(module, "initializer_gain"):
            init.xavier_normal_(module.weight, gain=float(module.initializer_gain))  # type: ignore[arg-type]

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves the model as transformers does.

        `auto_map` names every class, whichever of them is saved, so that a folder loads through any Auto class with
        `trust_remote_code=True` where this package is not installed.
        """
        self.config.auto_map = {
            "AutoConfig": "configuration_beats.BeatsConfig",
            "AutoModel": "modeling_beats.BeatsModel",
            "AutoModelForAudioClassification": "modeling_beats.BeatsForAudioClassification",
            "AutoFeatureExtractor": "feature_extraction_audio_mae.AudioMAEFeatureExtractor",
        }
        super().save_pretrained(save_directory, *args, **kwargs)


class BeatsModel(BeatsPreTrainedModel):
    """BEATs or OpenBEATs encoder, which returns token embeddings and their mean."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: BeatsConfig):
        super().__init__(config)
        self.embeddings = BeatsEmbeddings(config)
        self.position_conv = BeatsPositionConv(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.relative_position_bias = BeatsRelativePositionBias(config)
        self.layers = nn.ModuleList(BeatsLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def token_mask(self, attention_mask: torch.Tensor | None, input_values: torch.Tensor) -> torch.Tensor | None:
        """Valid tokens (batch, tokens), bool, of a frame mask, or None where nothing is padded."""
        if attention_mask is None:
            return None
        if attention_mask.shape != input_values.shape[:2]:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected {tuple(input_values.shape[:2])}: "
                "one value per frame (1 = audio, 0 = padding)."
            )
        valid = frames_to_tokens(attention_mask, self.config)
        if is_tracing(valid):
            return valid
        if valid.all():
            return None
        if not valid.any(dim=1).all():
            empty = (~valid.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(
                f"attention_mask leaves no token in rows {empty} (token_padding={self.config.token_padding!r}, "
                f"patch_size={self.config.patch_size} frames): leave such clips out, or repeat them."
            )
        return valid

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Encodes log-mel spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): Normalised log-mel, float, at least `patch_size` frames.
                Trailing frames that do not fill a patch are dropped, as in the released code.
            attention_mask (`(batch, frames)`, *optional*): 1 = audio, 0 = padding. Tokens of padding are set to zero
                before the position convolution; they are neither attended to nor do they count in the mean.
            **kwargs: `output_hidden_states` and `output_attentions`.

        Returns:
            `last_hidden_state` (batch, tokens, hidden_size), tokens in time-major order, and `pooler_output` (batch,
            embedding_size), as `BeatsConfig.pooling` says.

        Raises:
            ValueError: wrong shapes, or a clip without a valid token.
            TypeError: an argument that is none of these, nor of the outputs that transformers collects.
        """
        collected = {f"output_{name}" for name in self._can_record_outputs}
        # Exporters and PEFT pass such arguments, switched off, to every model.
        asked = [name for name, value in kwargs.items() if value is not None and value is not False]
        if unknown := [name for name in asked if name not in collected]:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}.")
        hidden_states = self.embeddings(input_values)
        valid = self.token_mask(attention_mask, input_values)
        if valid is not None:
            hidden_states = hidden_states.masked_fill(~valid[..., None], 0)
        hidden_states = self.dropout(self.layernorm(self.position_conv(hidden_states)))
        position_bias = self.relative_position_bias(hidden_states.shape[1])
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_bias, valid)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.pool(hidden_states, valid)
        )

    def pool(self, hidden_states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Clip embedding (batch, embedding_size) of the valid tokens, summed in at least float32."""
        tokens = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        weight = None if valid is None else valid.to(tokens.dtype)[..., None]
        pooled = tokens.mean(dim=1) if weight is None else (tokens * weight).sum(dim=1) / weight.sum(dim=1)
        if self.config.pooling == "mean_std":
            deviations = (tokens - pooled[:, None]) if weight is None else (tokens - pooled[:, None]) * weight
            count = tokens.shape[1] if weight is None else weight.sum(dim=1)
            # Of one token it is 0, with a gradient of 0, which that of a square root would not be.
            pooled = torch.cat([pooled, torch.linalg.vector_norm(deviations, dim=1) / count**0.5], dim=1)
        return pooled.to(hidden_states.dtype)


class BeatsForAudioClassification(BeatsPreTrainedModel):
    """BEATs or OpenBEATs encoder with a linear classifier on its pooled output.

    The released classifiers average the logits of all tokens, which is the same for a linear layer.
    """

    def __init__(self, config: BeatsConfig):
        super().__init__(config)
        self.num_labels: int = config.num_labels  # type: ignore[assignment]
        self.beats = BeatsModel(config)
        self.classifier = nn.Linear(config.embedding_size, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classifies clips: single-label, multi-label or regression, see `problem_type`.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): As in [`BeatsModel.forward`].
            attention_mask (`(batch, frames)`, *optional*): As there.
            labels (*optional*): `(batch,)` class numbers (cross-entropy), `(batch, num_labels)` float 0/1 (binary
                cross-entropy), or float targets where `num_labels` is 1 (squared error).
            **kwargs: As in [`BeatsModel.forward`].
        """
        encoded = self.beats(input_values, attention_mask, **kwargs)
        logits = self.classifier(encoded.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits.float(), self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


__all__ = ["BeatsForAudioClassification", "BeatsModel", "BeatsPreTrainedModel"]
