"""An encoder that is built unlike those that the package knows."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


@strict
class NestedConfig(PreTrainedConfig):
    model_type = "nested"

    hidden_size: int = 8
    max_length: int = 64
    patch_size: int = 8


class Trunk(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.positions = nn.Parameter(torch.zeros(64, width), requires_grad=False)
        self.before = nn.Linear(4, width)
        self.stages = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.after = nn.LayerNorm(width)


class NestedModel(PreTrainedModel):
    """Blocks two levels down, a fixed table of positions, and no pooled output."""

    config_class = NestedConfig

    def __init__(self, config):
        super().__init__(config)
        self.stem = nn.Linear(4, 4)
        self.trunk = Trunk(config.hidden_size)
        self.last = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, input_values):
        hidden = self.trunk.before(self.stem(input_values)) * self.trunk.scale
        hidden = hidden + self.trunk.positions[: hidden.shape[1]]
        for stage in self.trunk.stages:
            hidden = hidden + stage(hidden).tanh()
        return BaseModelOutput(last_hidden_state=self.last(self.trunk.after(hidden)))
