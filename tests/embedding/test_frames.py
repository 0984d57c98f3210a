"""Frames are the encoder's tokens in time: their mean is the embedding, and their times are where the sound is."""

from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import ALL_WAVEFORMS, BUILDS, OWN, RANDOM, as_published, make_encoder, short_encoder, slow_but

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.embedding import EncoderError, make_adapter
from uamix_hf.embedding.settings import EmbeddingSettings

WINDOWED = [kind for kind in RANDOM if kind != "clap"]  # whose short clips fill a window as they are
FAST = {*BUILDS, "qwen2_audio_encoder", "sew", "wav2vec2-adapter"}


def embedder_of(kind: str, pooling: str | None = None, layer: int | None = None) -> AudioEmbedder:
    encoder, extractor = short_encoder(kind)
    if pooling is not None and kind not in OWN:  # whose own is the mean
        encoder.embedding_settings = EmbeddingSettings(layer=layer, pooling=pooling)
    return AudioEmbedder(encoder, extractor)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def whiten(embedder: AudioEmbedder) -> None:
    generator = torch.Generator().manual_seed(1)
    size = embedder.embedding_size
    whitening = torch.randn(size, generator=generator), torch.randn(size, 5, generator=generator)
    type(embedder.adapter).set_whitening(embedder.model, whitening)
    embedder.adapter = embedder.new_adapter()


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("kind", slow_but(FAST, WINDOWED))
def test_the_mean_of_the_frames_is_the_embedding(kind: str, whitened: bool) -> None:
    embedder = embedder_of(kind, "mean")
    if whitened:
        whiten(embedder)
    for samples in (3 * embedder.window_samples // 4, embedder.window_samples):
        wave = noise(samples)
        frames, embedding = embedder.encode_frames(wave), embedder.encode(wave)
        assert frames.embeddings.dtype == np.float32 and frames.times.dtype == np.float64
        assert frames.embeddings.shape == (len(frames.times), embedder.embedding_size)
        np.testing.assert_allclose(frames.embeddings.mean(axis=0), embedding, rtol=1e-4, atol=1e-4)
    assert len(frames.times) > 1 and np.abs(frames.embeddings[0] - frames.embeddings[-1]).max() > 1e-3


@pytest.mark.parametrize("layer", [None, 2])
def test_the_mean_of_claps_frames_is_the_embedding_of_10_seconds(layer: int | None) -> None:
    encoder = make_encoder("clap")
    encoder.embedding_settings = EmbeddingSettings(layer=layer)
    embedder = AudioEmbedder(encoder, RANDOM["clap"].extractor())
    wave = noise(480_000)
    frames = embedder.encode_frames(wave)
    np.testing.assert_allclose(frames.embeddings.mean(axis=0), embedder.encode(wave), rtol=1e-4, atol=1e-4)
    assert 0 < frames.times[0] and frames.times[-1] < 10
    hop = 10 / len(frames.times)
    np.testing.assert_allclose(np.diff(frames.times), hop, rtol=2e-3)
    short = embedder.encode_frames(wave[:160_000])  # a third of it
    assert len(short.times) == pytest.approx(len(frames.times) / 3, abs=1) and short.times[-1] < 10 / 3


# A convolution in the first layer of wav2vec2-conformer mixes tokens.
@pytest.mark.parametrize("kind", slow_but(FAST, (kind for kind in RANDOM if kind != "wav2vec2-conformer")))
@pytest.mark.parametrize("place", [0.15, 0.5, 0.8])
def test_a_louder_moment_changes_the_frame_of_its_time_most(kind: str, place: float) -> None:
    """An independent clock: where the sound is, in samples."""
    if kind == "clap":
        embedder = AudioEmbedder(make_encoder(kind), RANDOM[kind].extractor())
        samples = 480_000
    else:
        embedder = embedder_of(kind, "mean", layer=1)  # before tokens are mixed much
        samples = embedder.window_samples
    rate = embedder.feature_extractor.sampling_rate
    wave = noise(samples)
    burst = wave.copy()
    start, length = round(place * samples), round(samples / 100)
    burst[start : start + length] *= 3
    before, after = embedder.encode_frames(wave), embedder.encode_frames(burst)
    change = np.linalg.norm(after.embeddings - before.embeddings, axis=1)
    hop = np.diff(before.times).mean()
    assert abs(before.times[change.argmax()] - (start + length / 2) / rate) < hop


@pytest.mark.parametrize("kind", slow_but(FAST, RANDOM))
def test_frames_alone_are_those_in_a_batch_and_of_windows_in_their_order(kind: str) -> None:
    embedder = embedder_of(kind)
    window, rate = embedder.window_samples, embedder.feature_extractor.sampling_rate
    clips = [noise(samples, samples) for samples in (window // 2, 5 * window // 2, window // 5, window)]
    together = embedder.encode_frames(clips, batch_size=3, progress_bar=False)
    assert len(together) == len(clips)
    for clip, frames in zip(clips, together, strict=True):
        parts = [embedder.encode_frames(clip[start : start + window]) for start in range(0, len(clip), window)]
        vectors = np.concatenate([part.embeddings for part in parts])
        times = np.concatenate([part.times + number * window / rate for number, part in enumerate(parts)])
        np.testing.assert_allclose(frames.embeddings, vectors, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(frames.times, times, rtol=0, atol=1e-9)
        assert (np.diff(frames.times) > 0).all()


# Tokens of 1 s and their times in s, as the published models have them.
TIMES = {
    "audio_mae": (7, 0.0875, 0.16), "ast": (10, 0.0875, 0.1), "whisper": (51, 0, 0.02), "wav2vec2-bert":
    (49, 0.0175, 0.02), "qwen2_audio_encoder": (26, 0.01, 0.04), "voxtral_encoder": (51, 0, 0.02),
    "wav2vec2": (49, 0.0125, 0.02), "sew": (49, 0.0125, 0.02), "mae_ast": (6, 0.0875, 0.16),
    "beats": (6, 0.0875, 0.16), "ssamba": (7, 0.0875, 0.16),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIMES)
def test_times_have_a_closed_form(kind: str) -> None:
    count, first, hop = TIMES[kind]
    fields = as_published(kind) if kind in ALL_WAVEFORMS else {"max_length": 1024} if kind in OWN else {}
    encoder = make_encoder(kind, **fields)
    extractor = RANDOM[kind].extractor()
    if kind in OWN:
        extractor.max_length = 1024
    embedder = AudioEmbedder(encoder, extractor)
    frames = embedder.encode_frames(noise(16_000))
    assert embedder.frame_hop == pytest.approx(hop)
    np.testing.assert_allclose(frames.times, first + hop * np.arange(count), atol=1e-9)


def middle(outputs: torch.Tensor, inputs: torch.Tensor, token: int) -> float:
    """Middle of the places of the input (..., places) that a token of the output (1, channels, tokens) depends on."""
    (gradient,) = torch.autograd.grad(outputs[0, :, token].square().sum(), inputs, retain_graph=True)
    places = gradient.abs().flatten(0, -2).sum(dim=0).nonzero()[:, 0]
    return (places[0].item() + places[-1].item()) / 2


@pytest.mark.parametrize("kind", ["wav2vec2-layer-norm", "wavlm-layer-norm", "hubert-layer-norm", "data2vec-audio"])
def test_a_token_of_a_waveform_is_in_the_middle_of_its_samples(kind: str) -> None:
    encoder: Any = make_encoder(kind, **as_published(kind))
    times = AudioEmbedder(encoder, RANDOM[kind].extractor()).encode_frames(noise(4000)).times
    wave = torch.from_numpy(noise(4000))[None].requires_grad_()
    tokens = encoder.feature_extractor(wave)
    assert tokens.shape[2] == len(times) > 10
    centres = [(middle(tokens, wave, token) + 0.5) / 16_000 for token in range(len(times))]
    np.testing.assert_allclose(times, centres)


def test_a_token_of_whisper_is_in_the_middle_of_its_frames() -> None:
    encoder: Any = make_encoder("whisper")
    adapter = make_adapter(encoder)
    mel = torch.randn(1, 80, 40).requires_grad_()
    tokens = encoder.conv2(torch.nn.functional.gelu(encoder.conv1(mel)))
    inner = range(2, 18)  # those at the ends reach into padding
    assert [middle(tokens, mel, token) for token in inner] == [adapter.token_positions(20)[token] for token in inner]


def test_patches_that_overlap_and_are_not_square_have_their_own_times() -> None:
    config = AudioMAEConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, num_mel_bins=32,
        max_length=64, patch_size=8, patch_mel_bins=16, time_stride=4, pooling="mean_time_tokens",
    )  # fmt: skip
    extractor = AudioMAEFeatureExtractor(num_mel_bins=32, max_length=64, patch_size=8, time_stride=4)
    embedder = AudioEmbedder(AudioMAEModel(config).eval(), extractor)
    wave = noise(63 * 160 + 400)
    frames = embedder.encode_frames(wave)
    np.testing.assert_allclose(frames.times, 0.035 + 0.0125 + 0.04 * np.arange(15))
    assert frames.embeddings.shape == (15, 2 * 32)  # both bands
    np.testing.assert_allclose(frames.embeddings.mean(axis=0), embedder.encode(wave), atol=1e-5)


def test_a_clip_that_is_resampled_to_whole_patches_keeps_its_times() -> None:
    config = AudioMAEConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, max_length=64
    )
    extractor = AudioMAEFeatureExtractor(max_length=64, resample_below=40)
    embedder = AudioEmbedder(AudioMAEModel(config).eval(), extractor)
    times = embedder.encode_frames(noise(19 * 160 + 400)).times  # 20 frames, which become 16
    np.testing.assert_allclose(times, 7.5 * 19 / 15 * 0.01 + 0.0125)
    np.testing.assert_allclose(embedder.encode_frames(noise(47 * 160 + 400)).times, 0.0875 + 0.16 * np.arange(3))


def test_frames_of_another_pooling_are_the_tokens_themselves() -> None:
    """A class token has no time, and its whitening none of frames."""
    encoder, extractor = short_encoder("ssamba")
    wave = noise(64 * 160)
    expected = AudioEmbedder(encoder, extractor).encode_frames(wave)
    encoder.config.pooling = "cls"
    embedder = AudioEmbedder(encoder, extractor)
    whiten(embedder)
    frames = embedder.encode_frames(wave)
    np.testing.assert_array_equal(frames.embeddings, expected.embeddings)
    assert embedder.encode(wave).shape == (5,)


def test_one_recording_and_several_have_the_shapes_of_encode() -> None:
    embedder = embedder_of("audio_mae")
    assert embedder.encode_frames([]) == []
    (only,) = embedder.encode_frames([noise(4000)])
    np.testing.assert_allclose(only.embeddings, embedder.encode_frames(noise(4000)).embeddings)
    with pytest.raises(ValueError, match="batch_size"):
        embedder.encode_frames(noise(4000), batch_size=0)
    with pytest.raises(TypeError, match="set"):
        embedder.encode_frames({"a.wav"})


def test_frames_that_are_not_finite_are_named() -> None:
    embedder = embedder_of("audio_mae")
    torch.nn.init.constant_(embedder.model.layernorm.weight, float("nan"))
    with pytest.raises(ValueError, match="Frames of 2 of 2 recordings are not finite, the first of number 0"):
        embedder.encode_frames([noise(4000), noise(4000)], progress_bar=False)


def test_tokens_without_known_times_are_an_error() -> None:
    embedder = embedder_of("audio_mae")
    tokens = torch.zeros(1, 12, 8)
    with pytest.raises(EncoderError, match=r"12 tokens, and its input has 4 x 2 patches"):
        embedder.adapter.token_grid(tokens, torch.ones(1, 4, 2))
