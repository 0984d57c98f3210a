"""What encoder and decoder share: fixed buffers, sin-cos positions, attention and the pre-norm transformer layer."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_audio_mae import AudioMAEConfig


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


def encoder_attention_mask(config: AudioMAEConfig, hidden_states: torch.Tensor, valid: torch.Tensor | None) -> Any:
    """Makes the attention mask from the valid patch tokens (batch, tokens); prefix tokens are always valid.

    It is None without padding, so that attention takes its fast path.
    """
    if valid is not None:
        valid = F.pad(valid, (config.num_prefix_tokens, 0), value=True)
    return create_bidirectional_mask(config=config, inputs_embeds=hidden_states, attention_mask=valid)


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
