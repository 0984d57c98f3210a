"""The decoder of pretraining, with global attention or in Swin-V2 windows: visible tokens to predicted patches."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_audio_mae import AudioMAEConfig
from .layers_audio_mae import (
    AudioMAEFixedBuffers,
    AudioMAELayer,
    AudioMAEMLP,
    encoder_attention_mask,
    sincos_position_table,
)

# Added to the attention logits between window tokens that are adjacent only because of the circular shift.
WRAPPED = -100.0
# Added to the logits of padded keys: their weights are exactly 0, and finite if a whole window is padding.
PADDED = -1e4


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
