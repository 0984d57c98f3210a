"""Poolings beyond the mean: standard deviations, and attention that is learnt in tuning."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from uamix_hf import (
    AudioMAEConfig,
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    UaMixForContrastiveTuning,
)
from uamix_hf.embedding import load_encoder, make_adapter, save_encoder
from uamix_hf.models.audio_mae.pooling_audio_mae import AudioMAEAttentionPooling

BANDS, WIDTH, HEADS = 8, 48, 3
LENGTHS = [64, 30, 3]  # frames of each clip, of which a token has 16
BY_BAND = ("mean_std_time", "std_time", "attention_time")


def log_mels(batch: int, frames: int) -> torch.Tensor:
    return torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(frames))


def mask() -> torch.Tensor:
    return (torch.arange(64) < torch.tensor(LENGTHS)[:, None]).long()


def make(config: AudioMAEConfig, pooling: str) -> AudioMAEModel:
    """A model with weights as after training, those of attention included."""
    torch.manual_seed(0)
    model = AudioMAEModel(AudioMAEConfig(**{**config.to_dict(), "pooling": pooling})).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def expected(tokens: np.ndarray, weights: np.ndarray, bands: np.ndarray, model: AudioMAEModel) -> np.ndarray:
    """The pooling of one clip, in float64 and token by token.

    Args:
        tokens: (tokens, hidden_size).
        weights: Frames of audio of each token, or 1 (tokens,).
        bands: Frequency band of each token (tokens,).
        model: The model, whose weights of attention are used.
    """
    pooling = model.config.pooling
    groups = [bands == band for band in range(BANDS)] if pooling in BY_BAND else [bands >= 0]
    means, deviations = [], []
    for group in groups:
        if pooling.startswith("attention"):
            group = group if weights[group].any() else bands >= 0
            parts, size = [], WIDTH // HEADS
            for head, query in enumerate(model.attention_pooling.weight.detach().double().numpy()):
                share = [weights[i] * math.exp(float(tokens[i] @ query)) for i in np.flatnonzero(group)]
                parts.append(np.average(tokens[group][:, head * size : (head + 1) * size], axis=0, weights=share))
            means.append(np.concatenate(parts))
            continue
        means.append(np.average(tokens[group], axis=0, weights=weights[group]))
        squares = (tokens[group] - means[-1]) ** 2
        deviations.append(np.average(squares, axis=0, weights=weights[group]) ** 0.5)
    return np.concatenate(deviations if pooling == "std_time" else means + deviations)


@pytest.mark.parametrize("pooling", ["mean_std", "mean_std_time", "std_time", "attention", "attention_time"])
def test_pooling_is_what_its_name_says(tiny_config: AudioMAEConfig, pooling: str) -> None:
    model = make(tiny_config, pooling)
    with torch.no_grad():
        output = model(log_mels(3, 64), mask())
        whole = model(log_mels(3, 64))
    assert output.pooler_output.shape == (3, model.config.embedding_size)
    bands = np.arange(32) % BANDS
    for found, lengths in ((output, LENGTHS), (whole, [64] * 3)):
        for row, length in enumerate(lengths):
            frames = np.clip(length - 16 * (np.arange(32) // BANDS), 0, 16)
            weights = frames / 16 if pooling in BY_BAND else (frames > 0).astype(float)
            tokens = found.last_hidden_state[row, 1:].double().numpy()
            correct = expected(tokens, weights, bands, model)
            np.testing.assert_allclose(found.pooler_output[row].numpy(), correct, atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean_std_time", "std_time", "attention_time"])
def test_a_band_whose_tokens_were_dropped_has_those_of_all_bands(tiny_config: AudioMAEConfig, pooling: str) -> None:
    model = make(tiny_config, pooling)
    noise = torch.rand(1, 32, generator=torch.Generator().manual_seed(3))
    noise[0, 2::BANDS] = 2.0  # all four tokens of the third band
    with torch.no_grad():
        output = model(log_mels(1, 64), mask_ratio=0.5, noise=noise)
    bands = noise[0].argsort()[:16].numpy() % BANDS
    tokens = output.last_hidden_state[0, 1:].double().numpy()
    pooled = output.pooler_output[0].double().numpy().reshape(-1, BANDS, WIDTH)
    kept = [band for band in range(BANDS) if band != 2]
    for band in kept:
        own = tokens[bands == band]
        if pooling != "attention_time":
            np.testing.assert_allclose(pooled[:, band], [own.mean(0), own.std(0)][-len(pooled) :], atol=2e-5)
    if pooling != "attention_time":
        centred = np.concatenate([tokens[bands == band] - tokens[bands == band].mean(0) for band in kept])
        np.testing.assert_allclose(
            pooled[:, 2], [tokens.mean(0), (centred**2).mean(0) ** 0.5][-len(pooled) :], atol=2e-5
        )
    else:
        together = model.config.to_dict() | {"pooling": "attention"}
        model.config = AudioMAEConfig(**together)
        with torch.no_grad():
            everything = model(log_mels(1, 64), mask_ratio=0.5, noise=noise).pooler_output[0]
        np.testing.assert_allclose(pooled[0, 2], everything, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", ["mean_std", "mean_std_time", "std_time"])
def test_the_deviation_of_one_token_is_0_with_a_finite_gradient(tiny_config, pooling: str, dtype: torch.dtype) -> None:
    tiny_config.num_mel_bins = 16 if pooling == "mean_std" else 128  # one band: a clip of one token
    model = make(tiny_config, pooling).to(dtype)
    values = torch.randn(2, 32, tiny_config.num_mel_bins).to(dtype).requires_grad_()
    pooled = model(values, (torch.arange(32) < torch.tensor([[32], [11]])).long()).pooler_output
    deviations = pooled if pooling == "std_time" else pooled[:, pooled.shape[1] // 2 :]
    assert (deviations[0] > 0).all()
    torch.testing.assert_close(deviations[1], torch.zeros_like(deviations[1]), atol=1e-5, rtol=0)
    pooled.float().sum().backward()
    for gradient in [values.grad, *(parameter.grad for parameter in model.parameters())]:
        assert gradient is not None and gradient.isfinite().all()


@pytest.mark.parametrize(("pooling", "warns"), [("std_time", True), ("mean_std_time", False)])
def test_a_clip_whose_embedding_would_say_nothing_is_named(tiny_config, recwarn, pooling: str, warns: bool) -> None:
    """One token in time, of which the third clip is; two have a deviation."""
    adapter = make_adapter(make(tiny_config, pooling))
    for lengths, named in (([64, 30], False), (LENGTHS, warns)):
        with torch.no_grad():
            adapter.encode(log_mels(len(lengths), 64), torch.tensor(lengths), 0.0, 0.0)
        assert any("one token in time" in str(warning.message) for warning in recwarn) == named


@pytest.mark.parametrize(("pooling", "mean"), [("attention", "mean"), ("attention_time", "mean_time")])
def test_attention_begins_as_the_mean_of_a_checkpoint_without_it_and_is_saved(
    tiny_config: AudioMAEConfig, tmp_path: Path, pooling: str, mean: str
) -> None:
    save_encoder(make(tiny_config, mean), tmp_path / "without")
    encoder = load_encoder(tmp_path / "without", pooling=pooling).eval()
    with torch.no_grad():
        untrained = load_encoder(tmp_path / "without").eval()(log_mels(3, 64), mask()).pooler_output
        torch.testing.assert_close(encoder(log_mels(3, 64), mask()).pooler_output, untrained, atol=1e-6, rtol=1e-5)
        encoder.attention_pooling.weight += 1.0
        changed = encoder(log_mels(3, 64), mask()).pooler_output
        assert (changed - untrained).abs().max() > 0.01
        save_encoder(encoder, tmp_path / "with")
        for again in (load_encoder(tmp_path / "with"), AudioMAEModel.from_pretrained(tmp_path / "with")):
            assert torch.equal(again.eval()(log_mels(3, 64), mask()).pooler_output, changed)


def test_a_new_model_attends_to_all_tokens_alike(tiny_config: AudioMAEConfig) -> None:
    tiny_config.pooling = "attention"
    for model in (AudioMAEModel(tiny_config), AudioMAEForAudioClassification(tiny_config).audio_mae):
        assert isinstance(model.attention_pooling, AudioMAEAttentionPooling)
        assert not model.attention_pooling.weight.any()
    assert isinstance(AudioMAEModel(AudioMAEConfig.preset("tiny")).attention_pooling, nn.Identity)


def test_attention_is_tuned_above_the_layers(tiny_config: AudioMAEConfig) -> None:
    encoder = make(tiny_config, "attention_time")
    layers, name = tiny_config.num_hidden_layers, "attention_pooling.weight"
    assert make_adapter(encoder).layer_ids()[name] == layers + 1
    sizes = {"projector_hidden_size": 8, "projection_size": 4, "predictor_hidden_size": 8, "queue_size": 6}
    model = UaMixForContrastiveTuning.from_encoder(encoder, **sizes).train()
    weight = encoder.get_parameter(name)
    for stage, frozen, trained in (("head", 0, False), ("tune", 0, True), ("tune", layers, True)):
        model.set_stage(stage, frozen)
        model.zero_grad()
        model(log_mels(4, 64), torch.ones(4, 64, dtype=torch.long), torch.arange(4)).loss.backward()
        assert (weight.grad is not None and bool(weight.grad.any())) == trained


@pytest.mark.parametrize("pooling", ["mean_std_time", "std_time", "attention_time"])
def test_half_precision_is_that_of_float32(tiny_config: AudioMAEConfig, pooling: str) -> None:
    """Of tokens whose squares are beyond float16."""
    model = make(tiny_config, pooling)
    with torch.no_grad():
        model.layernorm.weight *= 400
        for parameter in model.attention_pooling.parameters():
            parameter /= 400
        exact = model(log_mels(3, 64), mask()).pooler_output
        assert exact.abs().max() > 400
        for dtype in (torch.float16, torch.bfloat16):
            half = copy.deepcopy(model).to(dtype)(log_mels(3, 64), mask()).pooler_output
            assert half.dtype == dtype
            torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.02 * exact.abs().max().item())


def test_every_weight_that_pretraining_trains_has_a_gradient(tiny_config: AudioMAEConfig, tmp_path: Path) -> None:
    """As DistributedDataParallel demands; what is not pretrained is trained later all the same."""
    tiny_config.pooling = "attention_time"
    model = AudioMAEForPreTraining(tiny_config)
    model(log_mels(3, 64), mask()).loss.backward()
    idle = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle
    model.save_pretrained(tmp_path)
    assert AudioMAEModel.from_pretrained(tmp_path).attention_pooling.weight.requires_grad
