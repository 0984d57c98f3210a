"""The mean over tokens is over those of audio: neither over padding nor over prefix tokens."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from uamix_hf.embedding import EmbeddingSettings, EncoderError, make_adapter

BINS = 8


class PatchConfig(PreTrainedConfig):
    model_type = "patches"

    def __init__(self, prefix=2, extra=0, fixed=False, **kwargs):
        super().__init__(**kwargs)
        self.prefix, self.extra, self.fixed = prefix, extra, fixed
        self.hidden_size, self.max_length, self.patch_size, self.num_mel_bins = 16, 24, 4, BINS


class PatchModel(PreTrainedModel):
    """Each token of the last output is the patch itself, with padding as loud as anything else; prefixes are huge."""

    config_class = PatchConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList([nn.Linear(16, 16)])
        self.variable_length = not config.fixed
        self.post_init()

    def forward(self, input_values, attention_mask=None):
        patches = input_values.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).flatten(1, 2)  # time first
        around = [torch.full((len(patches), count, 16), 1e6) for count in (self.config.prefix, self.config.extra)]
        return BaseModelOutput(last_hidden_state=torch.cat([around[0], patches, around[1]], dim=1))


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_padding_and_prefix_tokens_are_left_out(fixed: bool, prefix: int) -> None:
    model = PatchModel(PatchConfig(prefix, fixed=fixed))
    model.embedding_settings = EmbeddingSettings(pooling="mean")
    values, lengths = torch.randn(3, 20, BINS), torch.tensor([20, 9, 1])
    pooled, visible = make_adapter(model).encode(values, lengths, 0.0, 77.0)
    for row, (value, length) in enumerate(zip(values, lengths.tolist(), strict=True)):
        times = -(-length // 4)  # the last patch of a clip is filled up with padding
        value[length:] = 77.0
        patches = value[: 4 * times].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2)
        torch.testing.assert_close(pooled[row], patches.mean((0, 1)))
    assert (visible is None) == fixed


@pytest.mark.parametrize("fixed", [False, True])
def test_tokens_that_are_not_the_patches_of_the_input_are_refused(fixed: bool) -> None:
    adapter = make_adapter(PatchModel(PatchConfig(2, extra=3, fixed=fixed)))
    message = rf"PatchModel returns {17 if fixed else 15} tokens, and its input has {6 if fixed else 5} x 2 patches"
    with pytest.raises(EncoderError, match=message):
        adapter.encode(torch.randn(1, 20, BINS), torch.tensor([20]), 0.0, 0.0)
    declared = PatchConfig(5, fixed=fixed, num_prefix_tokens=5)
    pooled, _ = make_adapter(PatchModel(declared)).encode(torch.zeros(1, 20, BINS), torch.tensor([20]), 0.0, 0.0)
    assert not pooled.any()
