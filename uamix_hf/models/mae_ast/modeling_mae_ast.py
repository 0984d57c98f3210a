"""MAE-AST as a transformers model.

Baade et al., "MAE-AST: Masked Autoencoding Audio Spectrogram Transformer", Interspeech 2022, arXiv 2203.16691.
"""

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_mae_ast import MAEASTConfig


def sinusoidal_position_table(length: int, hidden_size: int) -> torch.Tensor:
    """Sinusoidal positions of the flattened token index, even channels sines, odd ones cosines.

    Args:
        length: Number of tokens.
        hidden_size: Channels, an even number.

    Returns:
        (1, length, hidden_size) float32.
    """
    omega = 10000.0 ** -(torch.arange(0, hidden_size, 2, dtype=torch.float64, device="cpu") / hidden_size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64, device="cpu"), omega)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()[None]


def frames_to_tokens(attention_mask: torch.Tensor, config: MAEASTConfig) -> torch.Tensor:
    """Frame mask to token mask: a token is valid if any of its frames is.

    Args:
        attention_mask: (batch, frames), 1 = audio, 0 = padding; frames that do not fill a token are left out.
        config: Sizes of the tokens.

    Returns:
        (batch, tokens) bool.
    """
    whole = attention_mask.shape[1] // config.patch_size * config.patch_size
    columns = attention_mask[:, :whole].bool().unflatten(1, (-1, config.patch_size)).any(-1)
    return columns.repeat_interleave(config.grid_size[1], dim=1)


class MAEASTEmbeddings(nn.Module):
    """Linear projection of the patches, positions and layer norm.

    Token `t * mel_rows + f` is patch `f` of column `t` (time-major), and its position is that index, as in MAE-AST.
    """

    position_embeddings: torch.Tensor

    def __init__(self, config: MAEASTConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.patch_size * config.patch_mel_bins, config.hidden_size)
        # Fixed, yet saved: released checkpoints carry their table, which wins over a computed one.
        time, mel = config.grid_size
        self.register_buffer("position_embeddings", torch.empty(1, time * mel, config.hidden_size))
        self.reset_positions()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def reset_positions(self) -> None:
        """Computes the position table, again where transformers initialises what it made on the meta device."""
        _, length, hidden_size = self.position_embeddings.shape
        init.copy_(self.position_embeddings, sinusoidal_position_table(length, hidden_size))

    def patches(self, input_values: torch.Tensor) -> torch.Tensor:
        """Cuts spectrograms (batch, frames, num_mel_bins) to patches (batch, tokens, patch_size * patch_mel_bins)."""
        config = self.config
        if input_values.ndim != 3 or input_values.shape[2] != config.num_mel_bins:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}, expected (batch, frames, {config.num_mel_bins}): "
                "the log-mel spectrograms of the feature extractor."
            )
        frames = input_values.shape[1]
        if frames > config.max_length:
            raise ValueError(
                f"input_values has {frames} frames of 10 ms and the model takes {config.max_length}. Embed long "
                "recordings with uamix_hf.AudioEmbedder, which averages windows, or cut them with the feature "
                "extractor's truncation=True."
            )
        columns = frames // config.patch_size
        if columns == 0:
            raise ValueError(
                f"input_values has {frames} frames, fewer than patch_size={config.patch_size}: pad with the feature "
                "extractor, which also makes the attention_mask."
            )
        grid = input_values[:, : columns * config.patch_size].unflatten(1, (columns, config.patch_size))
        grid = grid.unflatten(3, (-1, config.patch_mel_bins)).transpose(2, 3)
        return grid.flatten(3).flatten(1, 2)

    def forward(self, input_values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Embeds spectrograms.

        Args:
            input_values: (batch, frames, num_mel_bins) float.
            valid: Valid tokens (batch, tokens) bool, or None where nothing is padded.

        Returns:
            (batch, tokens, hidden_size).
        """
        hidden_states = self.projection(self.patches(input_values.to(self.projection.weight.dtype)))
        positions = self.position_embeddings[:, : hidden_states.shape[1]]
        if valid is not None:  # as in MAE-AST; valid tokens do not depend on it
            positions = positions * valid[..., None]
        return self.dropout(self.layernorm(hidden_states + positions))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as matrix products, which also returns the weights.

    Args:
        module: The attention module.
        query: (batch, heads, tokens, head_dim), like the next two.
        key: See `query`.
        value: See `query`.
        attention_mask: Additive, broadcasts to (batch, heads, tokens, tokens), or None.
        scaling: Factor of the dot products.
        dropout: Probability of dropping a weight.

    Returns:
        Output (batch, tokens, heads, head_dim) and weights (batch, heads, tokens, tokens).
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class MAEASTAttention(nn.Module):
    """Multi-head self-attention through transformers' attention interface."""

    def __init__(self, config: MAEASTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the output (batch, tokens, hidden_size) and, with eager attention, the weights."""
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling)
        return self.o_proj(output.flatten(2)), weights


class MAEASTMLP(nn.Module):
    """Feed-forward network of a layer."""

    def __init__(self, config: MAEASTConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Maps (..., hidden_size) to the same shape."""
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class MAEASTLayer(GradientCheckpointingLayer):
    """Post-norm transformer layer: each part is added to its input and the sum normalised."""

    def __init__(self, config: MAEASTConfig):
        super().__init__()
        self.attention = MAEASTAttention(config)
        self.attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MAEASTMLP(config)
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (batch, tokens, hidden_size) to the same shape."""
        attended, _ = self.attention(hidden_states, attention_mask)
        hidden_states = self.attention_layernorm(hidden_states + self.dropout(attended))
        return self.final_layernorm(hidden_states + self.dropout(self.mlp(hidden_states)))


class MAEASTPreTrainedModel(PreTrainedModel):
    """Base class: initialisation, loading and saving."""

    config: MAEASTConfig
    base_model_prefix = "mae_ast"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    # Any number of frames up to max_length, with a frame-level attention_mask: read by uamix_hf's encoder contract.
    variable_length = True
    _no_split_modules = ["MAEASTEmbeddings", "MAEASTLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MAEASTLayer, "attentions": MAEASTAttention}
    _input_embed_layer = "projection"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises a module, with every tensor that a checkpoint may lack."""
        super()._init_weights(module)
        if isinstance(module, MAEASTEmbeddings):
            module.reset_positions()

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves as transformers does.

        `auto_map` names every class, so that a folder loads through any Auto class with `trust_remote_code=True` where
        this package is absent.
        """
        self.config.auto_map = {
            "AutoConfig": "configuration_mae_ast.MAEASTConfig",
            "AutoModel": "modeling_mae_ast.MAEASTModel",
            "AutoFeatureExtractor": "feature_extraction_audio_mae.AudioMAEFeatureExtractor",
        }
        super().save_pretrained(save_directory, *args, **kwargs)


class MAEASTModel(MAEASTPreTrainedModel):
    """The encoder of MAE-AST on all tokens. There is no class token, and no layer norm follows the last layer."""

    def __init__(self, config: MAEASTConfig):
        super().__init__(config)
        self.embeddings = MAEASTEmbeddings(config)
        self.layers = nn.ModuleList(MAEASTLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def token_mask(self, attention_mask: torch.Tensor | None, input_values: torch.Tensor) -> torch.Tensor | None:
        """Valid tokens (batch, tokens) bool of a frame-level mask, or None where nothing is padded."""
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
            raise ValueError(f"attention_mask is all 0 in rows {empty}: a clip without a frame has no embedding.")
        return valid

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Embeds spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): Normalised log-mel, float, at most `max_length` frames.
                Frames at the end that do not fill a token are dropped, as in MAE-AST.
            attention_mask (`(batch, frames)`, *optional*): 1 = audio, 0 = padding. Tokens of padding are not attended
                to and do not count in the pooled mean.
            kwargs: `output_hidden_states` and `output_attentions`, as in transformers.

        Returns:
            `last_hidden_state` (batch, tokens, hidden_size), time-major: token `t * mel_rows + f`; `pooler_output`
            (batch, embedding_size), see `MAEASTConfig.pooling`; `hidden_states`, of which the first are the embeddings.

        Raises:
            ValueError: wrong shapes, more than `max_length` frames, or a clip that is padding throughout.
            TypeError: an argument that is none of these, nor of the outputs that transformers collects.
        """
        collected = {f"output_{name}" for name in self._can_record_outputs}
        # What is switched off has no effect: exporters and PEFT pass such arguments to every model.
        asked = [name for name, value in kwargs.items() if value is not None and value is not False]
        if unknown := [name for name in asked if name not in collected]:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}.")
        valid = self.token_mask(attention_mask, input_values)
        hidden_states = self.embeddings(input_values, valid)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=valid)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.pool(hidden_states, valid)
        )

    def pool(self, hidden_states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Clip embedding (batch, embedding_size) of the valid tokens, summed in at least float32, also in autocast."""
        tokens = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        with torch.autocast(tokens.device.type, enabled=False):
            weight = None if valid is None else valid.to(tokens.dtype)[..., None]
            pooled = tokens.mean(dim=1) if weight is None else (tokens * weight).sum(dim=1) / weight.sum(dim=1)
            if self.config.pooling == "mean_std":
                deviations = (tokens - pooled[:, None]) if weight is None else (tokens - pooled[:, None]) * weight
                count = tokens.shape[1] if weight is None else weight.sum(dim=1)
                # Of one token it is 0, with a gradient of 0, which that of a square root would not be.
                pooled = torch.cat([pooled, torch.linalg.vector_norm(deviations, dim=1) / count**0.5], dim=1)
        return pooled.to(hidden_states.dtype)


__all__ = ["MAEASTModel", "MAEASTPreTrainedModel"]
