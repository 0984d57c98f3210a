"""Audio-MAE (Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022) as a transformers model."""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_audio_mae import AudioMAEConfig

# Added to the attention logits between window tokens that are adjacent only because of the circular shift.
WRAPPED = -100.0
# Added to the logits of padded keys: their weights are exactly 0, and finite if a whole window is padding.
PADDED = -1e4


class InputTooLongError(ValueError):
    """The input has more frames than the position table."""


@dataclass
class AudioMAEModelOutput(BaseModelOutputWithPooling):
    """Output of [`AudioMAEModel`].

    Args:
        last_hidden_state (`(batch, prefix + tokens, hidden_size)`): Prefix tokens, then patch tokens in time-major
            order (token `t * bands + f`). If tokens were dropped, only the visible ones, shuffled.
        pooler_output (`(batch, embedding_size)`): See `AudioMAEConfig.pooling`.
        hidden_states (`tuple`, *optional*): As in transformers, with `output_hidden_states=True`.
        attentions (`tuple`, *optional*): As in transformers, with `output_attentions=True`.
        mask (`(batch, tokens)`, only if tokens were dropped): 1 = removed, 0 = visible or padding.
        ids_restore (`(batch, tokens)`, only if tokens were dropped): Position of each token in the shuffled order.
    """

    mask: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None


@dataclass
class AudioMAEForPreTrainingOutput(ModelOutput):
    """Output of [`AudioMAEForPreTraining`].

    Args:
        loss (`()`): Mean squared error over the removed tokens of the batch, float32; with `contrastive_weight`, the
            weighted sum of `loss_reconstruction` and `loss_contrastive`.
        logits (`(batch, tokens, patch_size ** 2)`): Predicted patches, values in order (frame, mel bin).
        mask (`(batch, tokens)`): As in [`AudioMAEModelOutput`].
        ids_restore (`(batch, tokens)`): As in [`AudioMAEModelOutput`].
        loss_reconstruction (`()`, only with `contrastive_weight`): Squared error of the joint objective.
        loss_contrastive (`()`, only with `contrastive_weight`): InfoNCE loss of the joint objective.
        hidden_states (`tuple`, *optional*): Of the encoder, with `output_hidden_states=True`.
        attentions (`tuple`, *optional*): Of the encoder, with `output_attentions=True`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None
    loss_reconstruction: torch.Tensor | None = None
    loss_contrastive: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def sincos_position_table(config: AudioMAEConfig, width: int) -> torch.Tensor:
    """Fixed 2-D sin-cos position table (1, prefix + tokens, width), float32; rows of prefix tokens are zero."""
    time, mel = config.grid_size
    index = torch.arange(time * mel, device="cpu")
    # Audio-MAE's code lays the table out on a (mel, time) grid although token k is (k // mel, k % mel). Released
    # weights depend on it.
    columns = time if config.position_layout == "audiomae" else mel
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    halves = [torch.outer(position.double(), omega) for position in (index % columns, index // columns)]
    table = torch.cat([wave for half in halves for wave in (half.sin(), half.cos())], dim=1)
    return F.pad(table, (0, 0, config.num_prefix_tokens, 0)).float()[None]


def column_frames(attention_mask: torch.Tensor, config: AudioMAEConfig) -> torch.Tensor:
    """Splits a frame mask (batch, frames) by time column of patches: (batch, columns, patch_size)."""
    size, stride = config.patch_size, config.strides[0]
    return attention_mask.unflatten(1, (-1, size)) if stride == size else attention_mask.unfold(1, size, stride)


def frames_to_tokens(attention_mask: torch.Tensor, config: AudioMAEConfig) -> torch.Tensor:
    """Converts a frame mask (batch, frames) to a token mask (batch, tokens), bool.

    Any valid frame is enough; where patches overlap, one that no earlier patch covers, so that a clip has the same
    tokens alone and in a padded batch.
    """
    frames = column_frames(attention_mask.bool(), config)
    overlap = config.patch_size - config.strides[0]
    columns = frames[..., overlap:].any(-1)
    if overlap:
        columns = torch.cat([frames[:, :1].any(-1), columns[:, 1:]], dim=1)
    return columns.repeat_interleave(config.grid_size[1], dim=1)


def keep_least(noise: torch.Tensor, allowed: torch.Tensor | None, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Keeps the `int(n * (1 - ratio))` of each row's n allowed entries that have the least noise, at least 1.

    Args:
        noise: (batch, entries).
        allowed: (batch, entries) bool, None for all.
        ratio: Fraction to drop.

    Returns:
        Which entries are kept (batch, entries) bool, and the rank of each by its noise (batch, entries).
    """
    if allowed is None:
        keep = torch.full((len(noise), 1), max(1, int(noise.shape[1] * (1 - ratio))), device=noise.device)
    else:
        noise = noise.masked_fill(~allowed, torch.inf)
        keep = (allowed.sum(1, keepdim=True).double() * (1 - ratio)).long().clamp_min(1)
    rank = noise.argsort(dim=1).argsort(dim=1)
    return rank < keep, rank


def keep_grid(
    noise: torch.Tensor, valid: torch.Tensor | None, bands: int, time_ratio: float, mel_ratio: float
) -> torch.Tensor:
    """Keeps the tokens that are in a kept time column and in a kept frequency band.

    Args:
        noise: (batch, columns + bands).
        valid: (batch, tokens) bool or None; columns of padding are not kept.
        bands: Frequency bands of the token grid.
        time_ratio: Fraction of the time columns to drop.
        mel_ratio: Fraction of the frequency bands to drop.

    Returns:
        (batch, tokens) bool.
    """
    columns = noise.shape[1] - bands
    valid_columns = None if valid is None else valid.unflatten(1, (columns, bands)).any(dim=2)
    in_time, _ = keep_least(noise[:, :columns], valid_columns, time_ratio)
    in_mel, _ = keep_least(noise[:, columns:], None, mel_ratio)
    return (in_time[:, :, None] & in_mel[:, None]).flatten(1)


def drop_tokens(
    tokens: torch.Tensor,
    valid: torch.Tensor | None,
    bands: int,
    mask_ratio: float | None,
    time_ratio: float | None,
    mel_ratio: float | None,
    noise: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Drops whole time columns and frequency bands of each clip's grid, then a fraction of the remaining tokens.

    This is the masking of MAE (arXiv 2111.06377) and Audio-MAE (arXiv 2207.06405); of padded clips, only tokens of
    audio are kept.

    Args:
        tokens: (batch, tokens, width), time-major with `bands` frequency bands.
        valid: (batch, tokens) bool or None.
        bands: Frequency bands of the token grid.
        mask_ratio: Fraction of the tokens to drop, None for none.
        time_ratio: Fraction of the time columns to drop, None for none.
        mel_ratio: Fraction of the frequency bands to drop, None for none.
        noise: (batch, columns + bands) if columns or bands are dropped, followed by (batch, tokens) if `mask_ratio` is
            given; uniform if None.

    Returns:
        Visible tokens (batch, most kept, width), which of them count (batch, most kept) or None if all do, the mask
        (batch, tokens) with 1 = removed, and ids_restore (batch, tokens).

    Raises:
        ValueError: Noise of another shape.
    """
    batch, length, _ = tokens.shape
    grid = length // bands + bands if time_ratio is not None or mel_ratio is not None else 0
    size = grid + (length if mask_ratio is not None else 0)
    if noise is None:
        noise = torch.rand(batch, size, dtype=torch.float32, device=tokens.device)
    elif noise.shape != (batch, size):
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {(batch, size)}: one value per token, or "
                         "per time column and frequency band.")  # fmt: skip
    allowed, kept_of_grid = valid, length
    if grid:
        time_ratio, mel_ratio = time_ratio or 0.0, mel_ratio or 0.0
        allowed = keep_grid(noise[:, :grid], valid, bands, time_ratio, mel_ratio)
        kept_of_grid = max(1, int(length // bands * (1 - time_ratio))) * max(1, int(bands * (1 - mel_ratio)))
        allowed = allowed if valid is None else allowed & valid
    # Without a mask_ratio, the tokens that the grid leaves keep their order.
    in_order = torch.arange(length, dtype=torch.float32, device=tokens.device).expand(batch, -1)
    kept, ids_restore = keep_least(in_order if mask_ratio is None else noise[:, grid:], allowed, mask_ratio or 0.0)
    # A clip without padding keeps this many, all others fewer. The exact number has to be read from the device, which a
    # compiled graph, whose shapes must not depend on values, cannot do.
    most = max(1, int(kept_of_grid * (1 - (mask_ratio or 0.0))))
    if valid is not None and not is_tracing(tokens):
        most = int(kept.sum(1).max())
    ids_keep = ids_restore.argsort(dim=1)[:, :most]
    visible = tokens.gather(1, ids_keep[..., None].expand(-1, -1, tokens.shape[-1]))
    if valid is None:
        return visible, None, (~kept).to(tokens.dtype), ids_restore
    return visible, kept.gather(1, ids_keep), (~kept & valid).to(tokens.dtype), ids_restore


class AudioMAEFixedBuffers(nn.Module):
    """Buffers that are computed, not learnt.

    They have their values when `__init__` ends, because transformers sometimes skips initialisation, and are computed
    again when it initialises modules that were made on the meta device.
    """

    def fixed_buffers(self) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def register_fixed_buffers(self, persistent: bool = True) -> None:
        for name, value in self.fixed_buffers().items():
            self.register_buffer(name, torch.empty(value.shape), persistent)
        self.reset_fixed_buffers()

    def reset_fixed_buffers(self) -> None:
        for name, value in self.fixed_buffers().items():
            init.copy_(getattr(self, name), value)


class AudioMAEPatchEmbeddings(nn.Module):
    """Projects patches of a log-mel (batch, frames, mel bins) to tokens (batch, tokens, hidden_size), time-major."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Conv2d(1, config.hidden_size, config.patch_shape, config.strides)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        config = self.config
        if input_values.ndim != 3 or input_values.shape[2] != config.num_mel_bins:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}, expected (batch, frames, {config.num_mel_bins}): "
                "the log-mel spectrograms of AudioMAEFeatureExtractor."
            )
        frames = input_values.shape[1]
        if frames > config.max_length:
            raise InputTooLongError(
                f"input_values has {frames} frames of 10 ms and the model's positions end at {config.max_length}. "
                "Embed long recordings with uamix_hf.AudioEmbedder, which averages windows, or cut them with the "
                "feature extractor's truncation=True."
            )
        if frames < config.patch_size or (frames - config.patch_size) % config.strides[0]:
            rule = "a positive multiple of" if config.strides[0] == config.patch_size else "covered by patches of"
            raise ValueError(
                f"input_values has {frames} frames, not {rule} patch_size={config.patch_size}: pad "
                "with AudioMAEFeatureExtractor, which also makes the attention_mask."
            )
        return self.projection(input_values[:, None]).flatten(2).transpose(1, 2)


class AudioMAEEmbeddings(AudioMAEFixedBuffers):
    position_embeddings: torch.Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = AudioMAEPatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, config.num_prefix_tokens, config.hidden_size))
        # Fixed, yet saved: released checkpoints contain their table, which must replace the computed one. It is no
        # frozen parameter, because from_pretrained makes every parameter trainable.
        self.register_fixed_buffers()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def fixed_buffers(self) -> dict[str, torch.Tensor]:
        return {"position_embeddings": sincos_position_table(self.config, self.config.hidden_size)}

    def forward(self, input_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns prefix tokens (batch, prefix, hidden_size) and patch tokens (batch, tokens, hidden_size).

        Positions are added. A shorter input uses the beginning of the table, which in time-major order gives every
        token the position it had in pretraining.
        """
        patches = self.patch_embeddings(input_values.to(self.cls_token.dtype))
        prefix = self.config.num_prefix_tokens
        patches = patches + self.position_embeddings[:, prefix : prefix + patches.shape[1]]
        cls = (self.cls_token + self.position_embeddings[:, :prefix]).expand(patches.shape[0], -1, -1)
        return self.dropout(cls), self.dropout(patches)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class AudioMAEAttention(nn.Module):
    def __init__(self, config: AudioMAEConfig, width: int, heads: int):
        super().__init__()
        self.config = config
        self.head_dim = width // heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, width)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling)
        return self.o_proj(output.flatten(2)), weights


class AudioMAEMLP(nn.Module):
    def __init__(self, config: AudioMAEConfig, width: int, intermediate_size: int):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(width, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class AudioMAEDropPath(nn.Module):
    """Skips a residual branch for a clip with probability `rate` during training (Huang et al. 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, dtype=torch.float32, device=branch.device) >= self.rate
        return branch * kept.to(branch.dtype) / (1 - self.rate)


class AudioMAELayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer of the encoder and of the global decoder."""

    def __init__(self, config: AudioMAEConfig, width: int, heads: int, intermediate_size: int, drop_path: float = 0.0):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = AudioMAEAttention(config, width, heads)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = AudioMAEMLP(config, width, intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = AudioMAEDropPath(drop_path)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        attended, _ = self.attention(self.layernorm_before(hidden_states), attention_mask)
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        return hidden_states + self.drop_path(self.dropout(self.mlp(self.layernorm_after(hidden_states))))


class AudioMAEWindowAttention(AudioMAEFixedBuffers):
    """Swin-V2 attention within windows: cosine similarity and a continuous relative position bias."""

    log_offsets: torch.Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        width, self.heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        self.window = config.decoder_window_size
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, width)
        self.tau = nn.Parameter(torch.ones(self.heads))
        self.bias_fc1 = nn.Linear(2, config.decoder_bias_hidden_size)
        self.bias_fc2 = nn.Linear(config.decoder_bias_hidden_size, self.heads)
        self.bias_dropout = nn.Dropout(config.decoder_bias_dropout_prob)
        self.register_fixed_buffers(persistent=False)

    def fixed_buffers(self) -> dict[str, torch.Tensor]:
        """Signed logarithmic (time, mel) offsets between all pairs of a window's tokens, (window**2, window**2, 2)."""
        axis = torch.arange(self.window, device="cpu")
        positions = torch.cartesian_prod(axis, axis).float()
        offsets = positions[:, None] - positions[None]
        return {"log_offsets": offsets.sign() * offsets.abs().log1p()}

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Computes attention within windows.

        Args:
            hidden_states: (windows, window**2, width).
            mask: Additive, broadcasts to (windows, heads, query, key).

        Returns:
            (windows, window**2, width).
        """
        query, key, value = (
            projection(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query = F.normalize(query, dim=-1, eps=1e-6) / self.tau.clamp_min(0.01)[:, None, None]
        key = F.normalize(key, dim=-1, eps=1e-6)
        hidden = self.bias_dropout(F.relu(self.bias_fc1(self.log_offsets.to(self.tau.dtype))))
        bias = self.bias_dropout(self.bias_fc2(hidden)).permute(2, 0, 1)[None]
        bias = bias if mask is None else bias + mask.to(bias.dtype)
        output = F.scaled_dot_product_attention(query, key.to(query.dtype), value, bias.to(query.dtype), scale=1.0)
        return self.o_proj(output.transpose(1, 2).flatten(2))


class AudioMAEWindowLayer(GradientCheckpointingLayer):
    """Swin-V2 layer on a token grid: residual post-norm, windows shifted along time only."""

    def __init__(self, config: AudioMAEConfig, shift: int):
        super().__init__()
        width = config.decoder_hidden_size
        self.window, self.shift = config.decoder_window_size, shift
        self.attention = AudioMAEWindowAttention(config)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = AudioMAEMLP(config, width, config.decoder_intermediate_size)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def split(self, grid: torch.Tensor) -> torch.Tensor:
        """Splits (batch, time, mel, width) into windows (batch * windows, window**2, width)."""
        side = self.window
        return grid.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def join(self, windows: torch.Tensor, batch: int, time: int) -> torch.Tensor:
        """Inverse of [`split`]."""
        side = self.window
        windows = windows.unflatten(0, (batch, time // side, -1)).unflatten(3, (side, side))
        return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def forward(self, grid: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Computes the layer.

        Args:
            grid: (batch, time, mel, width), time a multiple of the window.
            valid: (batch, time, mel) bool or None.

        Returns:
            (batch, time, mel, width).
        """
        batch, time = grid.shape[:2]
        # Shifted even if one window covers the clip, so that a clip is decoded equally alone and in a longer batch.
        shift = self.shift
        rolled, mask = grid.roll(-shift, dims=1), None
        if shift:
            # Tokens shifted circularly from the beginning of the clip to its end form a separate region there.
            region = (torch.arange(time, device=grid.device) >= time - shift).float()
            region = self.split(region[None, :, None, None].expand(1, -1, grid.shape[2], 1))
            mask = (region != region.transpose(1, 2)).float().mul(WRAPPED).repeat(batch, 1, 1)[:, None]
        if valid is not None:
            keys = self.split(valid.roll(-shift, dims=1)[..., None]).transpose(1, 2)
            padded = (~keys).float().mul(PADDED)[:, None]
            mask = padded if mask is None else mask + padded
        attended = self.join(self.attention(self.split(rolled), mask), batch, time).roll(shift, dims=1)
        grid = grid + self.layernorm_before(attended)
        return grid + self.layernorm_after(self.mlp(grid))


class AudioMAEDecoder(AudioMAEFixedBuffers):
    """Predicts the patches of the whole clip from the visible tokens."""

    position_embeddings: torch.Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.config = config
        width, layers = config.decoder_hidden_size, range(config.decoder_num_hidden_layers)
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_fixed_buffers()
        if config.decoder_type == "local":
            shift = config.decoder_window_size // 2
            self.layers = nn.ModuleList(AudioMAEWindowLayer(config, shift * (i % 2)) for i in layers)
        else:
            heads, inner = config.decoder_num_attention_heads, config.decoder_intermediate_size
            self.layers = nn.ModuleList(AudioMAELayer(config, width, heads, inner) for _ in layers)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.predict = nn.Linear(width, config.patch_size**2)
        if config.contrastive_weight:
            self.match = nn.Linear(width, config.patch_size**2)

    def fixed_buffers(self) -> dict[str, torch.Tensor]:
        return {"position_embeddings": sincos_position_table(self.config, self.config.decoder_hidden_size)}

    def forward(
        self,
        last_hidden_state: torch.Tensor,
        mask: torch.Tensor,
        ids_restore: torch.Tensor,
        valid: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Predicts every patch.

        Args:
            last_hidden_state: Encoder output (batch, 1 + visible, hidden_size).
            mask: (batch, tokens), 1 = removed.
            ids_restore: (batch, tokens), as in [`AudioMAEModelOutput`].
            valid: (batch, tokens) bool or None.

        Returns:
            Predicted patches (batch, tokens, patch_size**2) and, for the joint objective, the second prediction of the
            same shape, whose dot product with the correct patch is trained to be the largest; else None.
        """
        hidden = self.embed(last_hidden_state)
        cls, patches = hidden[:, :1], hidden[:, 1:]
        length, width = ids_restore.shape[1], hidden.shape[2]
        patches = F.pad(patches, (0, 0, 0, length - patches.shape[1]))
        patches = patches.gather(1, ids_restore[..., None].expand(-1, -1, width))
        kept = mask == 0 if valid is None else (mask == 0) & valid
        patches = torch.where(kept[..., None], patches, self.mask_token.to(patches.dtype))
        patches = patches + self.position_embeddings[:, 1 : 1 + length]
        if self.config.decoder_type == "local":
            patches = self.forward_local(patches, valid)
        else:
            hidden = torch.cat([cls + self.position_embeddings[:, :1], patches], dim=1)
            attention_mask = encoder_attention_mask(self.config, hidden, valid)
            for layer in self.layers:
                hidden = layer(hidden, attention_mask)
            patches = hidden[:, 1:]
        patches = self.layernorm(patches)
        return self.predict(patches), self.match(patches) if self.config.contrastive_weight else None

    def forward_local(self, patches: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Pads the grid in time to whole windows, masks the padding, and cuts it off again."""
        bands = self.config.grid_size[1]
        grid = patches.unflatten(1, (-1, bands))
        time = grid.shape[1]
        missing = -time % self.config.decoder_window_size
        if missing:
            valid = torch.ones_like(patches[..., 0], dtype=torch.bool) if valid is None else valid
            grid = F.pad(grid, (0, 0, 0, 0, 0, missing))
        grid_valid = None if valid is None else F.pad(valid.unflatten(1, (-1, bands)), (0, 0, 0, missing))
        for layer in self.layers:
            grid = layer(grid, grid_valid)
        return grid[:, :time].flatten(1, 2)


def encoder_attention_mask(config: AudioMAEConfig, hidden_states: torch.Tensor, valid: torch.Tensor | None) -> Any:
    """Makes the attention mask from the valid patch tokens (batch, tokens); prefix tokens are always valid.

    It is None without padding, so that attention takes its fast path.
    """
    if valid is not None:
        valid = F.pad(valid, (config.num_prefix_tokens, 0), value=True)
    return create_bidirectional_mask(config=config, inputs_embeds=hidden_states, attention_mask=valid)


class AudioMAEWhitening(AudioMAEFixedBuffers):
    """Fixed affine map (batch, width) to (batch, size), which `uamix_hf.fit_whitening` fits.

    Until then it keeps the first `size` dimensions.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, width: int, size: int):
        super().__init__()
        self.width, self.size = width, size
        self.register_fixed_buffers()

    def fixed_buffers(self) -> dict[str, torch.Tensor]:
        return {
            "mean": torch.zeros(self.width, device="cpu"),
            "matrix": torch.eye(self.width, self.size, device="cpu"),
        }

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        # Directions of little variance are scaled up; in half precision, rounding of the others would exceed them.
        with torch.autocast(pooled.device.type, enabled=False):
            whitened = (pooled.float() - self.mean.float()) @ self.matrix.float()
        return whitened.to(self.matrix.dtype)


class AudioMAEPreTrainedModel(PreTrainedModel):
    config: AudioMAEConfig
    base_model_prefix = "audio_mae"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    # The losses are means over the batch, so the Trainer must divide them by its accumulation steps.
    accepts_loss_kwargs = False
    # Any number of frames up to max_length with a frame-level attention_mask; read by uamix_hf.training.encoders.
    variable_length = True
    _no_split_modules = ["AudioMAEEmbeddings", "AudioMAELayer", "AudioMAEWindowLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": AudioMAELayer, "attentions": AudioMAEAttention}
    _input_embed_layer = "patch_embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises as Audio-MAE does (arXiv 2207.06405), including every tensor that a checkpoint may lack."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, AudioMAEClassifier):
            init.trunc_normal_(module.weight, std=self.config.classifier_initializer_range)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d):
            bound = math.sqrt(
                6 / (module.weight.shape[0] + module.weight[0].numel())
            )  # Xavier of a patch as one vector
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, AudioMAEEmbeddings):
            init.normal_(module.cls_token, std=std)
        elif isinstance(module, AudioMAEDecoder):
            init.normal_(module.mask_token, std=std)
        elif isinstance(module, AudioMAEWindowAttention):
            init.ones_(module.tau)
        if isinstance(module, AudioMAEFixedBuffers):
            module.reset_fixed_buffers()

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves as in transformers, with an `auto_map` of every class, whichever of them is saved.

        So a folder loads through any Auto class with `trust_remote_code=True` without this package.
        """
        self.config.auto_map = {
            "AutoConfig": "configuration_audio_mae.AudioMAEConfig",
            "AutoModel": "modeling_audio_mae.AudioMAEModel",
            "AutoModelForPreTraining": "modeling_audio_mae.AudioMAEForPreTraining",
            "AutoModelForAudioClassification": "modeling_audio_mae.AudioMAEForAudioClassification",
            "AutoFeatureExtractor": "feature_extraction_audio_mae.AudioMAEFeatureExtractor",
        }
        super().save_pretrained(save_directory, *args, **kwargs)


class AudioMAEModel(AudioMAEPreTrainedModel):
    """The encoder. It drops tokens only if `forward` is given a ratio."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier(_layernorm)?\."]

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        width, heads, inner = config.hidden_size, config.num_attention_heads, config.intermediate_size
        self.embeddings = AudioMAEEmbeddings(config)
        last = max(1, config.num_hidden_layers - 1)
        rates = [config.drop_path_rate * depth / last for depth in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(AudioMAELayer(config, width, heads, inner, rate) for rate in rates)
        no_norm, fc_norm = config.pooling == "mean_fc_norm", config.pooling in ("mean_fc_norm", "mean_two_norms")
        self.layernorm = nn.Identity() if no_norm else nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if fc_norm else nn.Identity()
        size = config.whitening_size
        self.whitening = AudioMAEWhitening(config.pooled_size, size) if size else nn.Identity()
        self.post_init()

    def token_mask(self, attention_mask: torch.Tensor | None, input_values: torch.Tensor) -> torch.Tensor | None:
        """Converts a frame-level mask to valid tokens (batch, tokens) bool, or None without padding.

        Raises:
            ValueError: A mask of another shape, or all 0 for a clip.
        """
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
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        mask_time_ratio: float | None = None,
        mask_mel_ratio: float | None = None,
        noise: torch.Tensor | None = None,
        **kwargs,
    ) -> AudioMAEModelOutput:
        """Encodes log-mel spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): Normalised log-mel, float; frames that whole patches cover
                (a multiple of `patch_size`, unless they overlap), at most `max_length`.
            attention_mask (`(batch, frames)`, *optional*): 1 = audio, 0 = padding. Tokens of padding neither attend,
                nor are attended to, nor count in the pooled mean.
            mask_ratio (`float`, *optional*): Fraction of each clip's tokens to drop before the layers.
            mask_time_ratio (`float`, *optional*): Fraction of each clip's time columns to drop first.
            mask_mel_ratio (`float`, *optional*): Fraction of each clip's frequency bands to drop first.
            noise (*optional*): The entries of least noise are kept; makes dropping reproducible. `(batch, tokens)` with
                `mask_ratio`; `(batch, columns + bands)` with one or both of the others; concatenated in the order
                columns, bands, tokens with all.
            **kwargs: `output_hidden_states` and `output_attentions`, as in transformers.

        Raises:
            InputTooLongError: More than `max_length` frames.
            ValueError: Wrong shapes, a clip that is all padding, or `noise` without a ratio.
            TypeError: An unknown argument.
        """
        collected = {f"output_{name}" for name in self._can_record_outputs}
        # None and False request nothing: exporters and PEFT pass such arguments to every model.
        requested = [name for name, value in kwargs.items() if value is not None and value is not False]
        if unknown := [name for name in requested if name not in collected]:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}.")
        ratios = (mask_ratio, mask_time_ratio, mask_mel_ratio)
        drops = any(ratio is not None for ratio in ratios)
        if noise is not None and not drops:
            raise ValueError("noise orders the tokens to drop: it needs mask_ratio, mask_time_ratio or mask_mel_ratio.")
        cls, patches = self.embeddings(input_values)
        visible = self.token_mask(attention_mask, input_values)
        mask = ids_restore = None
        if drops:
            bands = self.config.grid_size[1]
            patches, visible, mask, ids_restore = drop_tokens(patches, visible, bands, *ratios, noise)
        hidden_states = torch.cat([cls, patches], dim=1)
        token_mask = encoder_attention_mask(self.config, hidden_states, visible)
        for layer in self.layers:
            hidden_states = layer(hidden_states, token_mask)
        last_hidden_state = self.layernorm(hidden_states)
        pooled_states = hidden_states if self.config.pooling == "mean_two_norms" else last_hidden_state
        return AudioMAEModelOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=self.whitening(self.pool(pooled_states, visible, attention_mask, ids_restore)),
            mask=mask,
            ids_restore=ids_restore,
        )

    def pool(
        self,
        hidden_states: torch.Tensor,
        visible: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        ids_restore: torch.Tensor | None,
    ) -> torch.Tensor:
        """Pools the tokens to (batch, pooled_size).

        Sums are at least float32, also under autocast, because float16 ends at 65504.
        """
        if self.config.pooling == "cls":
            return hidden_states[:, 0]
        prefix = self.config.num_prefix_tokens
        if self.config.pooling == "mean_prefix":
            return hidden_states[:, :prefix].mean(dim=1)
        patches = hidden_states[:, prefix:].to(torch.promote_types(hidden_states.dtype, torch.float32))
        with torch.autocast(patches.device.type, enabled=False):
            if self.config.pooling in ("mean_time", "mean_time_tokens"):
                pooled = self.pool_time(patches, visible, attention_mask, ids_restore)
            elif visible is None:
                pooled = patches.mean(dim=1)
            else:
                weight = visible.float()[..., None]
                pooled = (patches * weight).sum(dim=1) / weight.sum(dim=1)
        return self.fc_norm(pooled.to(hidden_states.dtype))

    def pool_time(
        self,
        patches: torch.Tensor,
        visible: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        ids_restore: torch.Tensor | None,
    ) -> torch.Tensor:
        """Averages each frequency band over time, lowest band first: (batch, bands * hidden_size).

        With `"mean_time"`, a token is weighted by its frames of audio, because the last one of a short clip may be
        mostly padding. A band whose tokens were all dropped gets the mean of all bands. `patches` are at least float32.
        """
        batch, tokens, _ = patches.shape
        bands = self.config.grid_size[1]
        position = torch.arange(tokens, device=patches.device).expand(batch, -1)
        if ids_restore is not None:  # tokens are shuffled
            position = ids_restore.argsort(dim=1)[:, :tokens]
        weight = F.one_hot(position % bands, bands).to(patches.dtype)
        if attention_mask is not None and self.config.pooling == "mean_time":
            audio = column_frames(attention_mask.to(patches.dtype), self.config).mean(dim=2)
            weight = weight * audio.gather(1, position // bands)[..., None]
        if visible is not None:
            weight = weight * visible[..., None]
        sums, counts = weight.transpose(1, 2) @ patches, weight.sum(dim=1)[..., None]
        overall = sums.sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True)
        return torch.where(counts > 0, sums / torch.where(counts > 0, counts, 1), overall).flatten(1)


class AudioMAEForPreTraining(AudioMAEPreTrainedModel):
    """Encoder and decoder, trained to reconstruct the removed log-mel patches."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        if config.num_prefix_tokens != 1 or len({*config.patch_shape, *config.strides}) > 1:
            raise ValueError(
                f"AudioMAEForPreTraining reconstructs square patches that do not overlap, after one prefix token: not "
                f"num_prefix_tokens={config.num_prefix_tokens}, patches of {config.patch_shape}, strides "
                f"{config.strides} (frames, mel bins)."
            )
        self.audio_mae = AudioMAEModel(config)
        self.decoder = AudioMAEDecoder(config)
        self.post_init()

    def patchify(self, input_values: torch.Tensor) -> torch.Tensor:
        """Splits (batch, frames, mel bins) into float32 patches (batch, tokens, patch_size**2).

        The values of a patch are in order (frame, mel bin).
        """
        side = self.config.patch_size
        patches = input_values.float().unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        return patches.flatten(3, 4).flatten(1, 2)

    def targets(self, input_values: torch.Tensor) -> torch.Tensor:
        """Target patches (batch, tokens, patch_size**2) float32, each standardised if `norm_pix_loss`."""
        target = self.patchify(input_values)
        if self.config.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        return target

    def reconstruction_loss(self, target: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Squared error of each patch, averaged over the removed ones of the batch."""
        error = (logits.float() - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.float().sum().clamp_min(1)

    def contrastive_loss(self, target: torch.Tensor, matches: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """InfoNCE loss: identifies each removed patch among the removed ones of its clip, averaged over the batch."""
        with torch.autocast(matches.device.type, enabled=False):
            similarity = matches.float() @ target.transpose(1, 2)
        # Finite, so that rows of visible patches, which do not count, have no NaN gradient.
        similarity = similarity.masked_fill(mask[:, None] == 0, torch.finfo(similarity.dtype).min)
        loss = similarity.logsumexp(dim=2) - similarity.diagonal(dim1=1, dim2=2)
        return torch.where(mask > 0, loss, 0).sum() / mask.float().sum().clamp_min(1)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        return_loss: bool = True,
        **kwargs,
    ) -> AudioMAEForPreTrainingOutput:
        """Masks, encodes and reconstructs log-mel spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): As in [`AudioMAEModel.forward`].
            attention_mask (`(batch, frames)`, *optional*): As there; padding is never predicted.
            noise (*optional*): As there, for `config.mask_type`.
            return_loss (`bool`): Whether to compute the loss.
            **kwargs: As there.
        """
        config = self.config
        if config.mask_type == "unstructured":
            ratios = {"mask_ratio": config.mask_ratio}
        else:
            ratios = {"mask_time_ratio": config.mask_time_ratio, "mask_mel_ratio": config.mask_mel_ratio}
        encoded = self.audio_mae(input_values, attention_mask, noise=noise, **ratios, **kwargs)
        valid = self.audio_mae.token_mask(attention_mask, input_values)
        logits, matches = self.decoder(encoded.last_hidden_state, encoded.mask, encoded.ids_restore, valid)
        loss = reconstruction = contrastive = None
        if return_loss:
            target = self.targets(input_values)
            loss = self.reconstruction_loss(target, logits, encoded.mask)
            if matches is not None:
                reconstruction, contrastive = loss, self.contrastive_loss(target, matches, encoded.mask)
                loss = reconstruction + config.contrastive_weight * contrastive
        return AudioMAEForPreTrainingOutput(
            loss=loss,
            logits=logits,
            mask=encoded.mask,
            ids_restore=encoded.ids_restore,
            loss_reconstruction=reconstruction,
            loss_contrastive=contrastive,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class AudioMAEClassifier(nn.Linear):
    """Linear classification head. It has its own class because its initialisation, near zero, differs."""


class AudioMAEForAudioClassification(AudioMAEPreTrainedModel):
    """Encoder with a linear head on its pooled output: single-label, multi-label or regression."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        self.num_labels: int = config.num_labels  # type: ignore[assignment]
        self.audio_mae = AudioMAEModel(config)
        eps = config.classifier_layer_norm_eps
        self.classifier_layernorm = nn.Identity() if eps is None else nn.LayerNorm(config.embedding_size, eps=eps)
        self.classifier = AudioMAEClassifier(config.embedding_size, self.num_labels)
        self.post_init()

    def patchout(self) -> dict[str, float]:
        """Ratios of [`AudioMAEModel.forward`] during training, those above 0."""
        config = self.config
        ratios = {
            "mask_ratio": config.patchout_ratio,
            "mask_time_ratio": config.patchout_time_ratio,
            "mask_mel_ratio": config.patchout_mel_ratio,
        }
        return {name: ratio for name, ratio in ratios.items() if ratio > 0}

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Classifies log-mel spectrograms.

        Args:
            input_values (`(batch, frames, num_mel_bins)`): As in [`AudioMAEModel.forward`].
            attention_mask (`(batch, frames)`, *optional*): As there.
            labels (*optional*): `(batch,)` class indices (cross-entropy), `(batch, num_labels)` float 0/1 (binary
                cross-entropy), or float targets if `num_labels` is 1 (squared error); see `problem_type`.
            **kwargs: As there.
        """
        ratios = self.patchout() if self.training else {}
        encoded = self.audio_mae(input_values, attention_mask, **{**ratios, **kwargs})
        logits = self.classifier(self.classifier_layernorm(encoded.pooler_output))
        loss = None if labels is None else self.loss_function(labels, logits.float(), self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


__all__ = [
    "AudioMAEForAudioClassification",
    "AudioMAEForPreTraining",
    "AudioMAEModel",
    "AudioMAEPreTrainedModel",
    "InputTooLongError",
]
