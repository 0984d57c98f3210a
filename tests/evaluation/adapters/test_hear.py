"""The module meets HEAR's common API, https://hearbenchmark.com/hear-api.html, as its validator checks it."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import make_encoder, short_encoder, slow_but, write_encoder

from uamix_hf import AudioEmbedder, load_audio
from uamix_hf.embedding import save_encoder
from uamix_hf.evaluation.adapters import hear

ROOT = Path(__file__).parents[3]
TINY = str(ROOT / "model_cards" / "audio-mae-tiny")


def sounds(model: hear.HearModel, count: int, seconds: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(count, int(seconds * model.sample_rate), generator=generator) - 1


@pytest.mark.parametrize("kind", slow_but(["whisper", "clap", "ssamba", "wav2vec2"], ["ast", "wav2vec2-bert"]))
def test_a_model_meets_the_contract(kind: str, tmp_path: Path) -> None:
    """What hearvalidator 2021.0.2 checks of a PyTorch model, in its words and numbers."""
    model = hear.load_model(str(write_encoder(kind, tmp_path / kind)))
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate in (16_000, 22_050, 32_000, 44_100, 48_000)
    assert isinstance(model.scene_embedding_size, int) and isinstance(model.timestamp_embedding_size, int)
    embeddings, timestamps = hear.get_timestamp_embeddings(sounds(model, 16, 2.0), model)
    assert embeddings.dtype == torch.float32 and embeddings.shape[0] == 16
    assert embeddings.shape[:2] == timestamps.shape and embeddings.shape[2] == model.timestamp_embedding_size
    steps = torch.diff(timestamps)
    assert steps.float().mean() <= 50.0
    assert ((steps - steps.float().mean()).abs() < 1e-3).all()
    scenes = hear.get_scene_embeddings(sounds(model, 8, 3.74), model)
    assert scenes.dtype == torch.float32 and scenes.shape == (8, model.scene_embedding_size)


def test_the_functions_have_the_arguments_of_the_api() -> None:
    for function, arguments in {
        hear.load_model: ["model_file_path"],
        hear.get_scene_embeddings: ["audio", "model"],
        hear.get_timestamp_embeddings: ["audio", "model"],
    }.items():
        parameters = inspect.signature(function).parameters
        assert [name for name, one in parameters.items() if name != "hop_ms"] == arguments
    assert inspect.signature(hear.load_model).parameters["model_file_path"].default == ""
    with pytest.raises(ValueError, match="no default encoder"):
        hear.load_model()


def test_embeddings_are_those_of_the_embedder() -> None:
    model, embedder = hear.load_model(TINY), AudioEmbedder.from_pretrained(TINY)
    wave = load_audio(ROOT / "examples" / "siren.flac")
    scene = hear.get_scene_embeddings(torch.from_numpy(wave)[None], model)
    np.testing.assert_allclose(scene[0].numpy(), embedder.encode(wave), atol=1e-5)


def test_fine_tokens_are_the_timestamps_themselves() -> None:
    encoder = make_encoder("whisper")
    _, extractor = short_encoder("whisper")
    extractor.max_length = 3000
    model = hear.HearModel(AudioEmbedder(encoder, extractor))
    assert model.hop_ms == 20
    audio = sounds(model, 2, 1.0)
    vectors, times = hear.get_timestamp_embeddings(audio, model)
    frames = model.embedder.encode_frames(audio[1].numpy())
    np.testing.assert_allclose(times[1], 1000 * frames.times)
    np.testing.assert_allclose(vectors[1], frames.embeddings, rtol=1e-3, atol=1e-4)


def test_coarse_tokens_are_interpolated_every_50_ms_also_over_several_windows() -> None:
    model = hear.load_model(TINY)
    assert model.hop_ms == 50
    audio = sounds(model, 1, 25.0)
    vectors, times = hear.get_timestamp_embeddings(audio, model)
    assert times[0, 0] == pytest.approx(37.5) and times.shape == (1, 500) and times[0, -1] == pytest.approx(24_987.5)
    frames = model.embedder.encode_frames(audio[0].numpy())
    for column in (0, 100):
        expected = np.interp(times[0].numpy() / 1000, frames.times, frames.embeddings[:, column])
        np.testing.assert_allclose(vectors[0, :, column], expected, atol=1e-5)
    assert hear.HearModel(model.embedder, hop_ms=160.0).hop_ms == 160
    with pytest.raises(ValueError, match="hop_ms=0"):
        hear.load_model(TINY, hop_ms=0)


def test_an_encoder_of_another_rate_hears_the_same_sound(tmp_path: Path) -> None:
    encoder, extractor = short_encoder("audio_mae")
    extractor.sampling_rate = 24_000
    save_encoder(encoder, tmp_path, extractor)
    model = hear.load_model(str(tmp_path))
    assert model.sample_rate == 32_000
    audio = sounds(model, 1, 0.5)
    recording = {"array": audio[0].numpy(), "sampling_rate": 32_000}
    np.testing.assert_allclose(hear.get_scene_embeddings(audio, model)[0], model.embedder.encode(recording), atol=1e-6)
    extractor.sampling_rate = 96_000
    with pytest.raises(ValueError, match="96000 Hz"):
        hear.HearModel(AudioEmbedder(encoder, extractor))


def test_a_shape_that_is_not_hears_is_named() -> None:
    model = hear.load_model(TINY)
    with pytest.raises(ValueError, match=r"\(16000,\); HEAR's is \(n_sounds, n_samples\)"):
        hear.get_scene_embeddings(torch.zeros(16_000), model)
    vectors, times = hear.get_timestamp_embeddings(torch.zeros(0, 16_000), model)
    assert vectors.shape == (0, 0, model.timestamp_embedding_size) and times.shape == (0, 0)


def test_a_sound_shorter_than_a_token_has_a_timestamp() -> None:
    model = hear.load_model(TINY)
    vectors, times = hear.get_timestamp_embeddings(sounds(model, 3, 0.03), model)
    assert vectors.shape == (3, 1, model.timestamp_embedding_size) and times.shape == (3, 1)
