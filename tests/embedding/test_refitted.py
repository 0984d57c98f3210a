"""A whitening is fitted to the user's own recordings in one call, and the result is saved in another."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_sounds import CONFIG, EXTRACTOR, tones, write_tones
from transformers import ASTFeatureExtractor, AutoFeatureExtractor

from uamix_hf import AudioEmbedder, AudioMAEModel
from uamix_hf.embedding.whitening import whitening_of


@pytest.fixture(params=["audio_mae", "ast"])
def embedder(request, make_ast) -> AudioEmbedder:
    torch.manual_seed(0)
    if request.param == "audio_mae":
        return AudioEmbedder(AudioMAEModel(copy.deepcopy(CONFIG)), EXTRACTOR)
    return AudioEmbedder(make_ast(), ASTFeatureExtractor(max_length=128))


def test_a_whitening_is_fitted_to_recordings_and_saved(embedder: AudioEmbedder, tmp_path: Path) -> None:
    waves, _ = tones(12)
    plain = embedder.encode(waves, progress_bar=False)
    mean, matrix = whitening_of(plain, 5)
    for _ in range(2):  # the second one replaces the first
        embedder.fit_whitening(waves, size=5, progress_bar=False)
        whitened = embedder.encode(waves, progress_bar=False)
        np.testing.assert_allclose(whitened, (plain - mean) @ matrix, atol=1e-3)
    assert embedder.embedding_size == 5
    embedder.save_pretrained(tmp_path / "saved")
    loaded = AudioEmbedder.from_pretrained(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(loaded.encode(waves, progress_bar=False), whitened, atol=1e-5)
    own = AutoFeatureExtractor.from_pretrained(tmp_path / "saved")
    expected = "ASTFeatureExtractor" if type(embedder.model).__name__ == "ASTModel" else "AudioMAEFeatureExtractor"
    assert type(own).__name__ == expected


def test_a_folder_of_recordings_will_do(embedder: AudioEmbedder, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 6)
    files = sorted(folder.iterdir())
    embedder.fit_whitening(files, size=3, progress_bar=False)
    expected = embedder.encode(files, progress_bar=False)
    embedder.fit_whitening(folder, size=3, progress_bar=False)
    np.testing.assert_allclose(embedder.encode(files, progress_bar=False), expected, atol=1e-5)


def test_after_an_error_the_embedder_is_as_it_was(embedder: AudioEmbedder, tmp_path: Path) -> None:
    waves, _ = tones(6)
    embedder.fit_whitening(waves, size=3, progress_bar=False)
    before = embedder.encode(waves, progress_bar=False)
    with pytest.raises(ValueError, match="at least two"):
        embedder.fit_whitening(waves[:1], progress_bar=False)
    with pytest.raises(TypeError, match="several recordings"):
        embedder.fit_whitening(waves[0])
    assert np.array_equal(embedder.encode(waves, progress_bar=False), before)
