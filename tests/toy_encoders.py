"""Encoders that are built unlike those that the package knows."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from uamix_hf.embedding import EncoderAdapter, register_encoder


@strict
class NestedConfig(PreTrainedConfig):
    model_type = "nested"

    hidden_size: int = 8
    max_length: int = 64
    patch_size: int = 1
    patch_mel_bins: int = 4


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


class WaveConfig(PreTrainedConfig):
    model_type = "toy_wave"


class WaveModel(PreTrainedModel):
    """Frames of a waveform (batch, frames, 160), two of which make a token."""

    config_class = WaveConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList([nn.Linear(320, 8), nn.Linear(8, 8)])
        self.post_init()

    def forward(self, frames):
        hidden = frames.unflatten(1, (-1, 2)).flatten(2)
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        return BaseModelOutput(last_hidden_state=hidden)


class ToyWaveAdapter(EncoderAdapter):
    """Tokens of two frames; padding is left out of the mean."""

    domain = "waveform"
    input_name = "frames"
    poolings = ("mean",)

    def read_sizes(self, config):
        self.variable_length, self.max_frames, self.pooled_size = True, 400, 8
        self.patch, self.patch_shape, self.strides = 2, (2, 160), (2, 160)

    def check_fit(self, extractor):
        assert extractor.domain == self.domain

    def run(self, input_values, lengths, token_drop, padding_value):
        valid = torch.arange(0, input_values.shape[1], 2, device=lengths.device) < lengths[:, None]
        return self.layer_output(frames=input_values), valid[..., None].float()


register_encoder("toy_wave", ToyWaveAdapter)
