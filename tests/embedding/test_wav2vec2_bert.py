"""Wav2Vec2-BERT: its input is what its own feature extractor makes, and its embedding is that of transformers."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import make_encoder
from datasets import Dataset
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertModel

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, load_audio
from uamix_hf.embedding import EmbeddingConfigError, EmbeddingSettings, EncoderError, embed_features, save_encoder
from uamix_hf.embedding.kinds import make_adapter, make_front_end
from uamix_hf.models.front_ends import front_end

# That of the published weights pads with 1, and its odd last frames have no token either.
OWN = SeamlessM4TFeatureExtractor(padding_value=1.0)
SAMPLES = (80_000, 16_000, 31_007, 8123, 700, 300)


@pytest.fixture(scope="module")
def waves(esc10: Path) -> list[np.ndarray]:
    files = sorted((esc10 / "audio").iterdir())[:: 400 // len(SAMPLES)]
    return [load_audio(file)[:samples] for file, samples in zip(files, SAMPLES, strict=False)]


@pytest.fixture(scope="module")
def embedder() -> AudioEmbedder:
    return AudioEmbedder(make_encoder("wav2vec2-bert"), OWN)


def prepared(embedder: AudioEmbedder, wave: np.ndarray) -> torch.Tensor:
    made = embedder.feature_extractor(wave, sampling_rate=16_000, return_tensors="pt")
    return embedder.adapter.input_features(made["input_values"], made["attention_mask"].sum(1))


def test_input_and_embedding_are_those_of_transformers(waves, embedder: AudioEmbedder) -> None:
    vectors = embedder.encode(waves[:5], progress_bar=False)
    for wave, vector in zip(waves[:5], vectors, strict=True):
        theirs = OWN(wave, sampling_rate=16_000, return_tensors="pt")
        mask = theirs["attention_mask"][0].bool()
        ours = prepared(embedder, wave)[0][: int(mask.sum())]
        difference = (ours - theirs["input_features"][0][mask]).abs()
        # Kaldi's filters are in float32, here as in its own code, and in float64 there: it shows in the lowest bins.
        assert difference.mean() < 1e-4 and difference.max() < 1e-2
        with torch.no_grad():
            expected = embedder.model(**theirs).last_hidden_state[0][mask].mean(0)
        np.testing.assert_allclose(vector, expected, atol=2e-4 * np.abs(expected.numpy()).max())


@pytest.mark.parametrize("positions", ["relative_key", "relative", "rotary"])
def test_a_clip_alone_has_the_embedding_that_it_has_in_a_batch(waves, positions: str) -> None:
    embedder = AudioEmbedder(make_encoder("wav2vec2-bert", position_embeddings_type=positions), OWN)
    together = embedder.encode(waves, batch_size=len(waves), progress_bar=False)
    assert together.shape == (len(waves), 32) and np.isfinite(together).all()
    for wave, vector in zip(waves, together, strict=True):
        np.testing.assert_allclose(embedder.encode(wave, progress_bar=False), vector, atol=1e-5)


@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_gain_changes_the_log_mel_and_not_the_input(waves, embedder: AudioEmbedder, factor: float) -> None:
    wave = waves[0] + 1e-3 * np.random.default_rng(0).standard_normal(len(waves[0]), np.float32)
    raw, louder = embedder.feature_extractor.log_mels([wave, factor * wave])
    torch.testing.assert_close(louder, raw + 2 * math.log(factor), atol=1e-3, rtol=0)
    length = torch.tensor([len(raw)])
    inputs = [embedder.adapter.input_features(one[None], length) for one in (raw, louder)]
    torch.testing.assert_close(inputs[0], inputs[1], atol=1e-3, rtol=0)


def test_the_layer_is_recorded_and_a_saved_folder_loads(waves, embedder: AudioEmbedder, tmp_path: Path) -> None:
    encoder = copy.deepcopy(embedder.model)
    encoder.embedding_settings = EmbeddingSettings(2)
    vectors = AudioEmbedder(encoder, OWN).encode(waves, progress_bar=False)
    with torch.no_grad():
        hidden = encoder(**OWN(waves[0], sampling_rate=16_000, return_tensors="pt"), output_hidden_states=True)
    np.testing.assert_allclose(vectors[0], hidden.hidden_states[2][0].mean(0), atol=1e-4)
    save_encoder(encoder, tmp_path)
    OWN.save_pretrained(tmp_path)
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert np.array_equal(loaded.encode(waves, progress_bar=False), vectors)
    assert type(loaded.model) is Wav2Vec2BertModel
    assert loaded.model.config.apply_spec_augment and loaded.model.config.layerdrop == 0.5


def test_windows_may_be_longer_than_by_default_also_of_cached_features(waves) -> None:
    wave = np.resize(np.concatenate(waves), 31 * 16_000)
    encoder = make_encoder(
        "wav2vec2-bert", num_hidden_layers=1, num_attention_heads=1, position_embeddings_type="rotary"
    )
    made = front_end("wav2vec2_bert", max_length=4000)
    mel = made.log_mels([wave])[0]
    with torch.no_grad():
        expected, _ = make_adapter(encoder).encode(mel[None], torch.tensor([len(mel)]), 0.0, 0.0)
    data = Dataset.from_dict({"features": [mel.numpy()], "length": [len(mel)], "sample_id": [0]}).with_format("torch")
    np.testing.assert_allclose(embed_features(encoder, made, data), expected, atol=1e-5)
    np.testing.assert_allclose(AudioEmbedder(encoder, made).encode([wave], progress_bar=False), expected, atol=1e-5)


def test_what_does_not_fit_is_refused_by_name() -> None:
    encoder = make_encoder("wav2vec2-bert")
    with pytest.raises(ValueError, match="num_mel_bins=128 and the encoder 80"):
        AudioEmbedder(encoder, AudioMAEFeatureExtractor())
    with pytest.raises(ValueError, match="stride=1: a token"):
        make_front_end(encoder.config, SeamlessM4TFeatureExtractor(stride=1))
    with pytest.raises(EncoderError, match="add_adapter=True: load it with add_adapter=False"):
        make_adapter(make_encoder("wav2vec2-bert", add_adapter=True))
    encoder.embedding_settings = EmbeddingSettings(pooling="pooler")
    with pytest.raises(EmbeddingConfigError, match="has mean"):
        make_adapter(encoder)
