"""Statistics of tokens are of those of audio: neither of padding nor of prefix tokens."""

from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import BUILDS, OWN, RANDOM, SHORT_FRAMES, short_encoder, slow_but
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from uamix_hf import AudioEmbedder
from uamix_hf.embedding import EmbeddingConfigError, EmbeddingSettings, EncoderError, make_adapter

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
@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_padding_and_prefix_tokens_are_left_out(fixed: bool, prefix: int, pooling: str) -> None:
    model = PatchModel(PatchConfig(prefix, fixed=fixed))
    model.embedding_settings = EmbeddingSettings(pooling=pooling)
    values, lengths = torch.randn(3, 20, BINS), torch.tensor([20, 9, 1])
    pooled, visible = make_adapter(model).encode(values, lengths, 0.0, 77.0)
    for row, (value, length) in enumerate(zip(values, lengths.tolist(), strict=True)):
        times = -(-length // 4)  # the last patch of a clip is filled up with padding
        value[length:] = 77.0
        patches = value[: 4 * times].unfold(0, 4, 4).unfold(1, 4, 4).flatten(2).flatten(0, 1)
        statistics = [patches.mean(0), patches.std(0, correction=0)] if pooling == "mean_std" else [patches.mean(0)]
        torch.testing.assert_close(pooled[row], torch.cat(statistics))
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


def embedder(kind: str, pooling: str) -> AudioEmbedder:
    encoder, front_end = short_encoder(kind)
    if kind in OWN:
        encoder.config.pooling = pooling
    else:
        encoder.embedding_settings = EmbeddingSettings(pooling=pooling)
    return AudioEmbedder(encoder, front_end)


@pytest.mark.parametrize("kind", slow_but(BUILDS, RANDOM))
def test_every_encoder_has_mean_and_standard_deviation(kind: str) -> None:
    made, rng = embedder(kind, "mean_std"), np.random.default_rng(0)
    whole = made.window_samples
    clips = [rng.normal(0, 0.1 * (i + 1), whole // (2 * i + 1)).astype(np.float32) for i in range(3)]
    found, width = made.encode(clips, progress_bar=False), made.embedding_size // 2
    np.testing.assert_array_equal(found[:, :width], embedder(kind, "mean").encode(clips, progress_bar=False))
    for vector, clip in zip(found, clips, strict=True):
        np.testing.assert_allclose(made.encode(clip, progress_bar=False), vector, atol=1e-5, rtol=1e-5)
    values, lengths = made.features(clips[:1], torch.device("cpu"))
    assert lengths.tolist() == [SHORT_FRAMES]  # of which all tokens are of audio
    with torch.no_grad():
        output: Any = made.adapter.run(values, lengths, 0.0, made.feature_extractor.padding_value)[0]
    tokens = output.last_hidden_state[0].numpy()
    prefix = {"ast": 2, "audio_mae": 1, "ssamba": 1}.get(kind, 0)
    np.testing.assert_allclose(found[0, width:], tokens[prefix:].std(axis=0), atol=1e-5)


def test_the_deviation_of_one_token_is_0_with_a_finite_gradient() -> None:
    model = PatchModel(PatchConfig(1))
    model.embedding_settings = EmbeddingSettings(pooling="mean_std")
    values = torch.randn(1, 4, 4).requires_grad_()
    pooled, _ = make_adapter(model).encode(values, torch.tensor([4]), 0.0, 0.0)
    pooled.sum().backward()
    assert not pooled[0, 16:].any() and values.grad is not None and values.grad.isfinite().all()


def test_a_pooling_that_an_encoder_does_not_have_is_named() -> None:
    model = PatchModel(PatchConfig(1))
    model.embedding_settings = EmbeddingSettings(pooling="attention")
    with pytest.raises(EmbeddingConfigError, match="pooling='attention': PatchModel has pooler, mean, mean_std"):
        make_adapter(model)
