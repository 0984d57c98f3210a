"""CLAP's audio model: its input is what its own feature extractor makes, and its embedding is transformers'."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import CLAP, make_encoder
from encoder_checks import scramble
from transformers import (
    ClapAudioModel,
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    WhisperFeatureExtractor,
)

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, load_audio
from uamix_hf.embedding import EmbeddingConfigError, EmbeddingSettings, EncoderError, load_encoder, save_encoder
from uamix_hf.embedding.kinds import encoder_from_config, make_adapter, make_front_end, settings_of
from uamix_hf.models.front_ends import front_end

RATE = 48_000
UNFUSED = ClapFeatureExtractor(truncation="rand_trunc")


@pytest.fixture(scope="module")
def waves(esc10: Path) -> list[np.ndarray]:
    """Two clips of 10 s, and shorter ones."""
    files = sorted((esc10 / "audio").iterdir())[::40]
    clips = [load_audio(file, RATE) for file in files]
    ten = [np.concatenate(clips[start : start + 3])[: 10 * RATE] for start in (0, 3)]
    return [*ten, clips[6][: 5 * RATE], clips[7][:72_000], clips[8][:31_007], clips[9][:600]]


@pytest.fixture(scope="module")
def whole() -> ClapModel:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ClapModel(ClapConfig(audio_config=CLAP, text_config=text | {"vocab_size": 30}, projection_dim=12))
    scramble(model)
    return model.eval()


@pytest.fixture(scope="module")
def embedder(whole) -> AudioEmbedder:
    return AudioEmbedder(whole.audio_model, UNFUSED)


def level_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference in dB, where the power is not rounded: float32 holds 80 dB below the loudest bin."""
    audible = theirs > theirs.amax(1, keepdim=True) - 80
    assert (ours - theirs).abs().mean() < 3e-3
    return (ours - theirs)[audible].abs().max().item()


def own_input(wave: np.ndarray, extractor: ClapFeatureExtractor = UNFUSED) -> torch.Tensor:
    return torch.from_numpy(extractor(wave, sampling_rate=RATE)["input_features"][0])[None].float()


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_log_mels_are_those_of_its_own_feature_extractor(waves, whole, truncation: str) -> None:
    own = ClapFeatureExtractor(truncation=truncation)
    made = make_front_end(whole.audio_model.config, own)
    for wave in waves[:2]:
        ours, theirs = (
            made(wave, sampling_rate=RATE, return_tensors="pt")["input_values"][0],
            own_input(wave, own)[0, 0],
        )
        assert ours.shape == (1001, 64) and theirs.min() >= -100
        assert level_error(ours, theirs) < 3e-3


def test_embeddings_are_those_of_transformers(waves, whole, embedder: AudioEmbedder) -> None:
    with torch.no_grad():
        theirs = torch.cat([whole.audio_model(own_input(wave)).pooler_output for wave in waves[:2]]).numpy()
        projected = whole.audio_projection(torch.from_numpy(theirs)).numpy()
    ours = embedder.encode(waves[:2], progress_bar=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert np.abs(ours[0] - ours[1]).max() > 0.1 * np.abs(theirs).max()
    encoder = ClapAudioModelWithProjection(copy.deepcopy(whole.audio_model.config)).eval()
    encoder.audio_model, encoder.audio_projection = whole.audio_model, whole.audio_projection
    encoder.embedding_settings = EmbeddingSettings(pooling="projection")
    shared = AudioEmbedder(encoder, UNFUSED)
    assert shared.embedding_size == 12 and shared.model is encoder
    found = shared.encode(waves[:2], progress_bar=False)
    np.testing.assert_allclose(found, projected, atol=1e-4 * np.abs(projected).max())


@pytest.mark.parametrize("number, copies, end", [(2, 2, 1001), (3, 6, 901)])
def test_short_clips_are_repeated_as_by_its_own_feature_extractor(waves, embedder, number, copies, end) -> None:
    wave = waves[number]
    assert len(wave) * copies == (end - 1) * 480
    values = embedder.feature_extractor(wave, sampling_rate=RATE, return_tensors="pt")
    ours = embedder.adapter.repeated(values["input_values"], values["attention_mask"].sum(1))[0]
    theirs = own_input(wave)[0, 0]
    seam = torch.tensor([round(turn * (end - 1) / copies) for turn in range(1, copies + 1)])
    near = ((torch.arange(1001)[:, None] - seam).abs() <= 1).any(1)
    assert level_error(ours[~near], theirs[~near]) < 3e-3
    assert (ours[end:] == -100).all() and near.sum() <= 3 * copies
    with torch.no_grad():
        expected = embedder.model(theirs[None, None]).pooler_output[0]
    found = torch.from_numpy(embedder.encode(wave, progress_bar=False))
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999


def test_a_clip_alone_has_the_embedding_that_it_has_in_a_batch(waves, embedder: AudioEmbedder) -> None:
    together = embedder.encode(waves, batch_size=len(waves), progress_bar=False)
    assert together.shape == (len(waves), 32) and np.isfinite(together).all()
    for wave, vector in zip(waves, together, strict=True):
        np.testing.assert_allclose(embedder.encode(wave, progress_bar=False), vector, atol=1e-5)
    long = embedder.encode(np.concatenate(waves[:2]), progress_bar=False)
    np.testing.assert_allclose(long, together[:2].mean(0), atol=1e-5)


@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_gain_on_the_waveform_is_gain_on_the_log_mel(waves, embedder: AudioEmbedder, factor: float) -> None:
    extractor, adapter = embedder.feature_extractor, embedder.adapter
    wave = waves[3] + 1e-3 * np.random.default_rng(0).standard_normal(len(waves[3]), np.float32)
    raw, louder = extractor.log_mels([wave, factor * wave])
    length = torch.tensor([len(raw)])
    one = adapter.repeated(extractor.normalize(raw + 2 * math.log(factor))[None], length)
    other = adapter.repeated(extractor.normalize(louder)[None], length)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        other[:, :900] - adapter.repeated(extractor.normalize(raw)[None], length)[:, :900],
        torch.full((1, 900, 64), 20 * math.log10(factor)), atol=1e-3, rtol=0,
    )  # fmt: skip


def test_recordings_are_windows_also_where_the_model_fuses(waves) -> None:
    encoder = make_encoder("clap", enable_fusion=True, fusion_type="aff_2d")
    own = ClapFeatureExtractor()
    features = own_input(waves[0], own)
    assert features.shape == (1, 4, 1001, 64)
    with torch.no_grad():
        expected = encoder(features, is_longer=torch.zeros(1, 1, dtype=torch.bool)).pooler_output.numpy()
    found = AudioEmbedder(encoder, own).encode(waves[:2], progress_bar=False)
    np.testing.assert_allclose(found[:1], expected, atol=1e-4 * np.abs(expected).max())
    names = make_adapter(encoder).trainable_names()
    assert names and not any("fusion_model" in name or "mel_conv2d" in name for name in names)


@pytest.mark.parametrize("layer, width", [(1, 16), (2, 32), (3, 32)])
def test_a_layer_is_a_stage(waves, whole, layer: int, width: int) -> None:
    encoder = copy.deepcopy(whole.audio_model)
    encoder.embedding_settings = EmbeddingSettings(layer)
    embedder = AudioEmbedder(encoder, UNFUSED)
    with torch.no_grad():
        expected = encoder(own_input(waves[0]), output_hidden_states=True).hidden_states[layer].mean((2, 3))[0].numpy()
    found = embedder.encode(waves[0], progress_bar=False)
    assert found.shape == (width,) == (embedder.embedding_size,)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_audio_model_is_loaded_from_every_kind_of_folder(whole, tmp_path: Path, waves, caplog) -> None:
    whole.save_pretrained(tmp_path / "whole")
    UNFUSED.save_pretrained(tmp_path / "whole")
    embedder = AudioEmbedder.from_pretrained(str(tmp_path / "whole"), device="cpu")
    encoder = embedder.model
    assert type(encoder) is ClapAudioModel and "UNEXPECTED" not in caplog.text
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, whole.audio_model.state_dict()[name]), name
    encoder.embedding_settings = EmbeddingSettings(2)
    vectors = AudioEmbedder(encoder, UNFUSED).encode(waves[:3], progress_bar=False)
    save_encoder(encoder, tmp_path / "alone")
    UNFUSED.save_pretrained(tmp_path / "alone")
    loaded = AudioEmbedder.from_pretrained(str(tmp_path / "alone"), device="cpu")
    assert type(loaded.model) is ClapAudioModel and np.array_equal(
        loaded.encode(waves[:3], progress_bar=False), vectors
    )
    again = ClapAudioModel.from_pretrained(tmp_path / "alone")  # an ordinary folder of transformers
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in again.state_dict().items())

    projected = load_encoder(tmp_path / "whole", pooling="projection")
    assert type(projected) is ClapAudioModelWithProjection
    for name, value in projected.audio_projection.state_dict().items():
        assert torch.equal(value, whole.audio_projection.state_dict()[name]), name
    vector = AudioEmbedder(projected, UNFUSED).encode(waves[0], progress_bar=False)
    save_encoder(projected, tmp_path / "projected")
    loaded = AudioEmbedder(load_encoder(tmp_path / "projected"), UNFUSED)
    assert settings_of(loaded.model).pooling == "projection" and loaded.embedding_size == 12
    assert np.array_equal(loaded.encode(waves[0], progress_bar=False), vector)
    assert type(encoder_from_config(projected.config)) is ClapAudioModelWithProjection
    with pytest.raises(EncoderError, match=r"lacks weights of ClapAudioModelWithProjection, such as audio_"):
        load_encoder(tmp_path / "alone", pooling="projection")


def test_what_does_not_fit_is_refused_by_name(whole) -> None:
    encoder = whole.audio_model
    with pytest.raises(EncoderError, match=r"ClapModel is not CLAP's audio model: give model\.audio_model"):
        AudioEmbedder(whole, UNFUSED)
    with pytest.raises(ValueError, match="num_mel_bins=128 and the encoder 64"):
        AudioEmbedder(encoder, AudioMAEFeatureExtractor())
    with pytest.raises(ValueError, match=r"std=1\.0 and the encoder"):
        AudioEmbedder(encoder, front_end("clap", std=1.0))
    with pytest.raises(ValueError, match="padding='pad': short clips are repeated"):
        make_front_end(encoder.config, ClapFeatureExtractor(padding="pad"))
    with pytest.raises(ValueError, match="makes 501 frames"):
        make_front_end(encoder.config, ClapFeatureExtractor(max_length_s=5))
    with pytest.raises(ValueError, match="WhisperFeatureExtractor is not .* 'clap_audio_model': give a ClapFeature"):
        make_front_end(encoder.config, WhisperFeatureExtractor())
    with pytest.raises(EncoderError, match="takes 256 frames"):
        make_adapter(make_encoder("clap", spec_size=64, num_mel_bins=16))
    for settings, message in (
        (EmbeddingSettings(4), "layers 1 to 3"),
        (EmbeddingSettings(pooling="pooler"), "has mean, mean_std, projection"),
        (EmbeddingSettings(pooling="projection"), "ClapAudioModel has none"),
    ):
        other = copy.deepcopy(encoder)
        other.embedding_settings = settings
        with pytest.raises(EmbeddingConfigError, match=message):
            make_adapter(other)
