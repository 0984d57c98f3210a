"""Whisper's architecture in models of audio and language: the same output as transformers', out of whole models."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import RANDOM
from encoder_checks import scramble
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    PreTrainedModel,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)

from uamix_hf import AudioEmbedder, load_audio
from uamix_hf.embedding import EmbeddingSettings, load_encoder, make_adapter, save_encoder

KINDS = {
    "qwen2_audio": (Qwen2AudioForConditionalGeneration, Qwen2AudioConfig, "qwen2_audio_encoder"),
    "voxtral": (VoxtralForConditionalGeneration, VoxtralConfig, "voxtral_encoder"),
    "audioflamingo3": (AudioFlamingo3ForConditionalGeneration, AudioFlamingo3Config, "audioflamingo3_encoder"),
    "musicflamingo": (MusicFlamingoForConditionalGeneration, MusicFlamingoConfig, "audioflamingo3_encoder"),
}
OWN = WhisperFeatureExtractor(feature_size=128)


def small(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model, config, encoder = KINDS[kind]
    audio = {"model_type": encoder} | RANDOM[encoder].fields
    text = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        "intermediate_size": 16, "vocab_size": 40,
    }  # fmt: skip
    made = model(config(audio_config=audio, text_config=text, audio_token_index=3, audio_token_id=3))
    scramble(made)
    return made.eval()


def tower_of(model: PreTrainedModel) -> PreTrainedModel:
    return next(module for name, module in model.named_modules() if name.endswith("audio_tower"))


@pytest.fixture(scope="module")
def waves(esc10: Path) -> list[np.ndarray]:
    files = sorted((esc10 / "audio").iterdir())[::50]
    whole = np.concatenate([load_audio(file) for file in files])[: 30 * 16_000]
    return [whole, whole[:16_000], whole[5000:13_123], whole[9000:9300]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_of_30_seconds_is_that_of_transformers(waves, kind: str) -> None:
    tower = tower_of(small(kind))
    theirs = OWN(waves[0], sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    inputs = {"input_features": theirs["input_features"]}
    if kind.endswith(("flamingo", "flamingo3")):
        inputs["input_features_mask"] = theirs["attention_mask"]
    with torch.no_grad():
        expected = tower(**inputs).last_hidden_state
    assert expected.shape == (1, 1500 if kind == "voxtral" else 750, 32)
    embedder = AudioEmbedder(tower, OWN)
    values = embedder.feature_extractor(waves[0], sampling_rate=16_000, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        found, _ = embedder.adapter.encode(values["input_values"], torch.tensor([3000]), 0.0, 0.0)
    torch.testing.assert_close(found, expected.mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_alone_has_the_embedding_that_it_has_in_a_batch(waves, kind: str, layer: int | None) -> None:
    tower = tower_of(small(kind))
    tower.embedding_settings = EmbeddingSettings(layer)
    embedder = AudioEmbedder(tower, OWN)
    together = embedder.encode(waves[1:], batch_size=3, progress_bar=False)
    for wave, vector in zip(waves[1:], together, strict=True):
        np.testing.assert_allclose(embedder.encode(wave, progress_bar=False), vector, atol=1e-5)


@pytest.mark.parametrize("frames", range(1, 10))
def test_of_a_last_pair_only_tokens_with_audio_are_averaged(frames: int) -> None:
    tower = tower_of(small("qwen2_audio"))
    whole = make_adapter(tower)
    values, lengths = torch.randn(1, frames, 128), torch.tensor([frames])
    before: list[torch.Tensor] = []
    handle = tower.layers[-1].register_forward_hook(lambda module, args, output: before.append(output))
    with torch.no_grad():
        pooled, visible = whole.encode(values, lengths, 0.0, 0.0)
    handle.remove()
    pairs = [tower.layer_norm(pair.mean(0)) for pair in before[0][0].split(2)]
    torch.testing.assert_close(pooled[0], torch.stack(pairs).mean(0))
    assert visible.shape == (1, -(-frames // 2), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_of_a_whole_model_is_loaded_and_saved(tmp_path: Path, kind: str) -> None:
    model = small(kind)
    model.save_pretrained(tmp_path / "whole")
    tower = tower_of(model)
    loaded = load_encoder(tmp_path / "whole")
    assert type(loaded) is type(tower) and loaded.dtype == torch.float32
    save_encoder(copy.deepcopy(loaded), tmp_path / "alone", OWN)
    for encoder in (loaded, load_encoder(tmp_path / "alone"), type(tower).from_pretrained(tmp_path / "alone")):
        assert encoder.state_dict().keys() == tower.state_dict().keys()
        assert all(torch.equal(value, tower.state_dict()[name]) for name, value in encoder.state_dict().items())
