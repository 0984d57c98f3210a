"""Whisper's encoder, with real weights: its input is what its own feature extractor makes, and clips stay apart."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from uamix_hf import AudioEmbedder, AudioMAEFeatureExtractor, load_audio
from uamix_hf.embedding import EmbeddingConfigError, EncoderError, load_encoder, make_adapter, save_encoder
from uamix_hf.embedding.kinds import make_front_end, settings_of
from uamix_hf.models.front_ends import front_end

SAMPLES = (80_000, 16_000, 31_007, 8123, 300, 24_160)


@pytest.fixture(scope="module")
def embedder(whisper: Path) -> AudioEmbedder:
    return AudioEmbedder.from_pretrained(str(whisper), device="cpu")


@pytest.fixture(scope="module")
def waves(esc10: Path) -> list[np.ndarray]:
    files = sorted((esc10 / "audio").iterdir())[:: 400 // len(SAMPLES)]
    return [load_audio(file)[:samples] for file, samples in zip(files, SAMPLES, strict=False)]


def own_features(folder: Path, wave: np.ndarray) -> torch.Tensor:
    return WhisperFeatureExtractor.from_pretrained(folder)(
        wave, sampling_rate=16_000, return_tensors="pt"
    ).input_features


def test_input_and_output_are_those_of_transformers(whisper: Path, embedder: AudioEmbedder, waves) -> None:
    for wave in waves[:3]:
        theirs = own_features(whisper, wave)
        values = embedder.feature_extractor(wave, sampling_rate=16_000, padding="max_length", return_tensors="pt")
        ours = embedder.adapter.input_features(values["input_values"], torch.tensor([3000]))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with torch.inference_mode():
        expected = embedder.model(theirs).last_hidden_state
        output, visible = embedder.adapter.run(values["input_values"], torch.tensor([3000]), 0.0, 0.0)
    torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-3, rtol=1e-4)
    assert visible.shape == (1, 1500, 1) and visible.all()


def test_features_of_a_short_clip_are_whispers_up_to_its_last_frames(whisper: Path, embedder: AudioEmbedder, waves):
    wave = waves[1]
    values = embedder.feature_extractor(wave, sampling_rate=16_000, return_tensors="pt")
    length = values["attention_mask"].sum(1)
    assert length.tolist() == [101]
    ours = embedder.adapter.input_features(values["input_values"], length)[0]
    torch.testing.assert_close(ours[:, :98], own_features(whisper, wave)[0, :, :98], atol=1e-5, rtol=0)


def test_a_clip_alone_has_the_embedding_that_it_has_in_a_batch(embedder: AudioEmbedder, waves) -> None:
    together = embedder.encode(waves, batch_size=len(waves), progress_bar=False)
    assert together.shape == (len(waves), 384) and together.dtype == np.float32
    for wave, vector in zip(waves, together, strict=True):
        np.testing.assert_allclose(embedder.encode(wave, progress_bar=False), vector, atol=5e-5)
    apart = np.linalg.norm(together[:, None] - together[None], axis=-1) + 100 * np.eye(len(waves))
    assert apart.min() > 0.5


@pytest.mark.parametrize("factor", [2.0, 0.25])
def test_gain_on_the_waveform_is_gain_on_the_log_mel(embedder: AudioEmbedder, waves, factor: float) -> None:
    """Wherever no frame is digital silence; the cut-off at 80 dB below the maximum comes after the gain."""
    extractor, adapter = embedder.feature_extractor, embedder.adapter
    wave = waves[0] + 1e-3 * np.random.default_rng(0).standard_normal(len(waves[0]), np.float32)
    raw, louder = extractor.log_mels([wave, factor * wave])
    length = torch.tensor([len(raw)])
    one = adapter.input_features(extractor.normalize(raw + 2 * math.log(factor))[None], length)
    other = adapter.input_features(extractor.normalize(louder)[None], length)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    assert (one - adapter.input_features(extractor.normalize(raw)[None], length)).abs().max() > 0.1


def test_the_layer_changes_the_embedding_and_is_recorded(whisper: Path, embedder: AudioEmbedder, waves, tmp_path):
    encoder = load_encoder(whisper, layer=2)
    chosen = AudioEmbedder(encoder, embedder.feature_extractor)
    vectors = chosen.encode(waves[:2], progress_bar=False)
    hidden: list[torch.Tensor] = []
    handle = embedder.model.layers[1].register_forward_hook(lambda module, args, output: hidden.append(output))
    embedder.encode(waves[0], progress_bar=False)
    handle.remove()
    np.testing.assert_allclose(vectors[0], hidden[0][0].mean(0), atol=1e-4)
    save_encoder(encoder, tmp_path)
    embedder.feature_extractor.save_pretrained(tmp_path)
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert settings_of(loaded.model).layer == 2
    assert np.array_equal(loaded.encode(waves[:2], progress_bar=False), vectors)
    assert settings_of(load_encoder(tmp_path, layer=3)).layer == 3
    again = WhisperEncoder.from_pretrained(tmp_path)  # an ordinary folder of transformers
    assert torch.equal(again.layers[3].fc1.weight, encoder.layers[3].fc1.weight)


def small_model() -> WhisperModel:
    torch.manual_seed(0)
    return WhisperModel(
        WhisperConfig(
            d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
            decoder_attention_heads=2, decoder_ffn_dim=48, max_source_positions=50, vocab_size=99, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_encoder_of_a_whole_model_is_loaded(tmp_path: Path, attention: str) -> None:
    model = small_model()
    model.half().save_pretrained(tmp_path / "whole")
    encoder = load_encoder(tmp_path / "whole", attn_implementation=attention)
    assert type(encoder) is WhisperEncoder and encoder.dtype == torch.float32
    assert torch.equal(encoder.layers[1].fc1.weight, model.encoder.layers[1].fc1.weight.float())
    features = torch.randn(2, 80, 100)
    with torch.no_grad():
        features = torch.maximum(features, features.amax((1, 2), keepdim=True) - 2)
        expected = encoder.eval()(features).last_hidden_state
        output, _ = make_adapter(encoder).run(features.mT, torch.tensor([100, 100]), 0.0, 0.0)
    torch.testing.assert_close(output.last_hidden_state, expected)
    save_encoder(encoder, tmp_path / "alone")
    alone = load_encoder(tmp_path / "alone")
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("frames", [97, 98, 99, 100])
def test_the_last_token_depends_on_no_other_clip(frames: int, attention: str) -> None:
    encoder = small_model().encoder
    encoder.set_attn_implementation(attention)
    adapter = make_adapter(encoder)
    values = torch.randn(2, 100, 80)
    with torch.no_grad():
        together, _ = adapter.encode(values, torch.tensor([frames, 100]), 0.0, 0.0)
        alone, _ = adapter.encode(values[:1, :frames], torch.tensor([frames]), 0.0, 0.0)
    torch.testing.assert_close(together[:1], alone)


def test_what_does_not_fit_is_refused_by_name() -> None:
    model = small_model()
    encoder, extractor = model.encoder, front_end("whisper", max_length=100)
    with pytest.raises(EncoderError, match=r"WhisperModel has no conv1.*model\.encoder"):
        AudioEmbedder(model, extractor)
    with pytest.raises(ValueError, match="num_mel_bins=128 and the encoder 80"):
        AudioEmbedder(encoder, AudioMAEFeatureExtractor())
    with pytest.raises(ValueError, match="mean=-4.0 and the encoder"):
        AudioEmbedder(encoder, front_end("whisper", max_length=100, mean=-4.0))
    with pytest.raises(ValueError, match="takes 100 frames"):
        AudioEmbedder(encoder, front_end("whisper"))
    with pytest.raises(ValueError, match="dither=0.1"):
        make_front_end(encoder.config, WhisperFeatureExtractor(dither=0.1))
    for layer, pooling, message in ((3, None, "layers 1 to 2"), (0, None, "layers 1 to 2"), (None, "cls", "has mean")):
        other = copy.deepcopy(encoder)
        other.embedding_settings = type(settings_of(encoder))(layer, pooling)
        with pytest.raises(EmbeddingConfigError, match=message):
            make_adapter(other)
