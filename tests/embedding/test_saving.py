"""Saved folders hold an encoder's own classes: transformers alone loads and runs them, and gives the same output."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import make_encoder
from transformers import (
    ASTFeatureExtractor,
    ASTModel,
    AutoFeatureExtractor,
    AutoModel,
    ClapAudioModel,
    ClapFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    WhisperFeatureExtractor,
)

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.embedding import load_feature_extractor, save_encoder
from uamix_hf.embedding.kinds import make_front_end, settings_of
from uamix_hf.models.front_ends import front_end

# In a process that imports nothing of this package, not even from the working directory.
ALONE = """
import sys
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

folder, wave, output = sys.argv[1:]
extractor = AutoFeatureExtractor.from_pretrained(folder)
kind = WhisperEncoder if type(extractor).__name__ == "WhisperFeatureExtractor" else AutoModel
model = kind.from_pretrained(folder).eval()
with torch.inference_mode():
    found = model(**extractor(np.load(wave), sampling_rate=extractor.sampling_rate, return_tensors="pt"))
np.save(output, found.last_hidden_state if kind is WhisperEncoder else found.pooler_output)
assert "uamix_hf" not in sys.modules
"""


def by_transformers_alone(folder: Path, wave: np.ndarray) -> np.ndarray:
    np.save(folder / "wave.npy", wave)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE, folder, folder / "wave.npy", folder / "output.npy"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return np.load(folder / "output.npy")


def noise(samples: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(1).standard_normal(samples, np.float32)


def save_asts_folder(encoder: ASTModel, folder: Path, given: str) -> tuple[np.ndarray, np.ndarray]:
    """Saves an encoder with one of two feature extractors; returns a clip and its embedding."""
    own = ASTFeatureExtractor(max_length=128, mean=-3.0, std=2.0)
    extractor = own if given == "own" else AudioMAEFeatureExtractor(max_length=128, mean=-3.0, std=2.0)
    embedder = AudioEmbedder(encoder.eval(), extractor)
    save_encoder(embedder.model, folder, embedder.feature_extractor)
    wave = noise(16_000)
    return wave, embedder.encode(wave, progress_bar=False)


@pytest.mark.parametrize("given", ["own", "front end"])
def test_asts_saved_classes_give_the_same_embedding(make_ast, tmp_path: Path, given: str) -> None:
    wave, expected = save_asts_folder(make_ast(), tmp_path, given)
    extractor, model = AutoFeatureExtractor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert type(extractor) is ASTFeatureExtractor
    with torch.inference_mode():
        found = model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_transformers_alone_embeds_by_asts_saved_folder(make_ast, tmp_path: Path) -> None:
    wave, expected = save_asts_folder(make_ast(), tmp_path, "own")
    np.testing.assert_allclose(by_transformers_alone(tmp_path, wave)[0], expected, atol=1e-5)


@pytest.mark.slow
def test_transformers_alone_runs_whispers_saved_folder(whisper: Path, tmp_path: Path) -> None:
    embedder = AudioEmbedder.from_pretrained(str(whisper), device="cpu")
    save_encoder(embedder.model, tmp_path, embedder.feature_extractor)
    wave = noise(16_000)
    features = WhisperFeatureExtractor.from_pretrained(whisper)(wave, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = embedder.model(**features).last_hidden_state
    np.testing.assert_allclose(by_transformers_alone(tmp_path, wave), expected, atol=1e-5)


@pytest.mark.parametrize("bins", [80, 128])
def test_whispers_own_feature_extractor_is_saved_and_makes_the_same_front_end(tmp_path: Path, bins: int) -> None:
    own = WhisperFeatureExtractor(feature_size=bins)
    encoder = make_encoder("whisper", num_mel_bins=bins)
    made = make_front_end(encoder.config, own)
    save_encoder(encoder, tmp_path, made)
    saved = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(saved) is WhisperFeatureExtractor and saved.to_dict() == own.to_dict()
    assert load_feature_extractor(tmp_path).to_dict() == made.to_dict()
    assert settings_of(AudioEmbedder.from_pretrained(str(tmp_path), device="cpu").model).max_length is None


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_claps_own_feature_extractor_is_saved_and_makes_the_same_front_end(tmp_path: Path, truncation: str) -> None:
    own, encoder = ClapFeatureExtractor(truncation=truncation), make_encoder("clap")
    made = make_front_end(encoder.config, own)
    save_encoder(encoder, tmp_path, made)
    saved, model = ClapFeatureExtractor.from_pretrained(tmp_path), ClapAudioModel.from_pretrained(tmp_path).eval()
    assert saved.to_dict() == own.to_dict() and load_feature_extractor(tmp_path).to_dict() == made.to_dict()
    wave = noise(480_000)
    features = torch.from_numpy(saved(wave, sampling_rate=48_000)["input_features"][0][:1])[None].float()
    with torch.inference_mode():
        expected = model(features).pooler_output[0]
    found = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu").encode(wave, progress_bar=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_wav2vec2_berts_own_feature_extractor_is_saved_and_makes_the_same_front_end(tmp_path: Path) -> None:
    own, encoder = SeamlessM4TFeatureExtractor(), make_encoder("wav2vec2-bert")
    made = make_front_end(encoder.config, own)
    save_encoder(encoder, tmp_path, made)
    saved, model = AutoFeatureExtractor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    assert type(saved) is SeamlessM4TFeatureExtractor and load_feature_extractor(tmp_path).to_dict() == made.to_dict()
    wave = noise(16_080)  # 99 frames
    with torch.inference_mode():
        expected = model(**saved(wave, sampling_rate=16_000, return_tensors="pt")).last_hidden_state[0, :49].mean(0)
    found = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu").encode(wave, progress_bar=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("normalized", [True, False])
def test_asts_own_feature_extractor_is_saved_and_makes_the_same_front_end(make_ast, tmp_path, normalized) -> None:
    own = ASTFeatureExtractor(max_length=128, do_normalize=normalized, mean=-3.0, std=2.0)
    made = make_front_end(make_ast().config, own)
    save_encoder(make_ast(), tmp_path, made)
    saved = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(saved) is ASTFeatureExtractor and saved.do_normalize == normalized
    assert load_feature_extractor(tmp_path).to_dict() == made.to_dict()


def test_an_own_feature_extractor_is_saved_as_it_is(make_ast, tmp_path: Path) -> None:
    own = ASTFeatureExtractor(max_length=128, return_attention_mask=True)
    save_encoder(make_ast(), tmp_path, own)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == own.to_dict()


def test_a_front_end_that_the_own_class_cannot_be_is_saved_with_a_warning(make_ast, tmp_path, caplog) -> None:
    made = AudioMAEFeatureExtractor(max_length=128, preemphasis=0.5)
    with caplog.at_level(logging.WARNING):
        save_encoder(make_ast(), tmp_path, made)
    assert "ASTFeatureExtractor cannot have this preemphasis" in caplog.text
    assert load_feature_extractor(tmp_path).to_dict() == made.to_dict()


def test_a_folder_with_the_front_end_of_an_earlier_version_is_loaded(make_ast, tmp_path: Path) -> None:
    encoder, made = make_ast().eval(), AudioMAEFeatureExtractor(max_length=128, mean=-3.0)
    save_encoder(encoder, tmp_path)
    made.save_pretrained(tmp_path)
    wave = noise(9000)
    expected = AudioEmbedder(encoder, made).encode(wave, progress_bar=False)
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert np.array_equal(loaded.encode(wave, progress_bar=False), expected)


def test_audio_maes_feature_extractor_is_its_own(tmp_path: Path) -> None:
    model = AudioMAEModel(AudioMAEConfig.preset("tiny", num_hidden_layers=1, max_length=96))
    made = AudioMAEFeatureExtractor(max_length=64, mean=-5.0)
    save_encoder(model, tmp_path, made)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == made.to_dict()
    assert not (tmp_path / "embedding_config.json").exists()


@pytest.mark.parametrize("attribute", [True, False])
def test_the_longest_window_is_recorded_where_the_own_class_does_not_say_it(tmp_path: Path, attribute: bool) -> None:
    """A clip of two windows, where the encoder would take it as one."""
    encoder, made = make_encoder("whisper", max_source_positions=50), front_end("whisper", max_length=40)
    save_encoder(encoder, tmp_path, made)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is WhisperFeatureExtractor
    loaded = AudioEmbedder.from_pretrained(str(tmp_path), device="cpu")
    assert loaded.feature_extractor.max_length == 40
    samples = loaded.window_samples
    wave = noise(2 * samples)
    halves = AudioEmbedder(encoder, made).encode([wave[:samples], wave[samples:]], progress_bar=False)
    np.testing.assert_allclose(loaded.encode(wave, progress_bar=False), halves.mean(axis=0), atol=1e-6)
    if attribute:  # it is the encoder's as well, so that its own feature extractor may be given
        again = AudioEmbedder(loaded.model, WhisperFeatureExtractor())
        assert again.feature_extractor.max_length == 40
        save_encoder(again.model, tmp_path / "again", WhisperFeatureExtractor())
    else:
        save_encoder(loaded.model, tmp_path / "again")
        WhisperFeatureExtractor().save_pretrained(tmp_path / "again")
    assert load_feature_extractor(tmp_path / "again").max_length == 40


@pytest.mark.parametrize(
    ("kind", "own"),
    [("whisper", WhisperFeatureExtractor), ("clap", ClapFeatureExtractor), ("ast", ASTFeatureExtractor)],
)
def test_the_front_end_of_a_classifiers_folder_is_saved_as_the_own_class(
    tmp_path, caplog, kind: str, own: type
) -> None:
    encoder = make_encoder(kind)
    settings = {"max_length": 128} if kind == "ast" else {}
    make_front_end(encoder.config, own(**settings)).save_pretrained(tmp_path)  # with its code, as classifiers have it
    encoder.save_pretrained(tmp_path)
    loaded = load_feature_extractor(tmp_path)
    save_encoder(encoder, tmp_path / "saved", loaded)
    assert not caplog.records
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path / "saved")) is own
    assert not list((tmp_path / "saved").glob("*.py"))
