"""Layer, pooling and longest window are chosen for evaluation and embedding, by objects and by the scripts' flags."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from all_encoders import make_encoder
from toy_sounds import write_tones
from transformers import WhisperFeatureExtractor

from uamix_hf import AudioEmbedder
from uamix_hf.data import load_recordings
from uamix_hf.embedding import save_encoder
from uamix_hf.evaluation import ProtocolArguments, cached_embeddings, evaluate_encoders
from uamix_hf.training import EncoderArguments

ROOT = Path(__file__).parents[2]
FEW = ProtocolArguments(["few_shot"], n_way=3, k_shot=[1], queries=2, episodes=3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small encoder of Whisper that takes 1 s."""
    encoder = make_encoder("whisper", max_source_positions=50)
    save_encoder(encoder, tmp_path / "model", WhisperFeatureExtractor(chunk_length=1))
    return tmp_path / "model"


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Twelve tones of three classes."""
    folder = write_tones(tmp_path / "sounds", 12)
    rows = [f"{number:02d}.wav,{number % 3}" for number in range(12)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    return folder


def script(name: str, monkeypatch: pytest.MonkeyPatch, *flags: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def by_hand(model: Path, sounds: Path, layer: int) -> np.ndarray:
    """Means over the tokens of a layer, by a hook on it."""
    embedder = AudioEmbedder.from_pretrained(str(model), device="cpu")
    found: list[torch.Tensor] = []
    embedder.model.layers[layer - 1].register_forward_hook(lambda module, args, output: found.append(output[0]))
    for file in sorted(sounds.glob("*.wav")):
        embedder.encode(file, progress_bar=False)
    return np.stack([hidden.mean(0).numpy() for hidden in found])


def test_embed_takes_a_layer_and_a_window(model: Path, sounds: Path, tmp_path: Path, monkeypatch) -> None:
    output, flags = tmp_path / "vectors.npz", ["--model_name_or_path", model, "--data_dir", sounds]
    script("embed.py", monkeypatch, *flags, "--output_file", output, "--embedding_layer", 2)
    np.testing.assert_allclose(np.load(output)["vectors"], by_hand(model, sounds, 2), atol=1e-5)
    script("embed.py", monkeypatch, *flags, "--output_file", output, "--max_length", 12)
    expected = AudioEmbedder.from_pretrained(str(model), device="cpu")
    expected.feature_extractor.max_length = 12
    files = sorted(sounds.glob("*.wav"))
    np.testing.assert_allclose(np.load(output)["vectors"], expected.encode(files, progress_bar=False), atol=1e-5)
    with pytest.raises(ValueError, match="max_length=101"):
        script("embed.py", monkeypatch, *flags, "--output_file", output, "--max_length", 101)


def test_few_shot_compares_layers_of_one_encoder(model: Path, sounds: Path, tmp_path: Path, monkeypatch) -> None:
    few = ["--n_way", 3, "--k_shot", 1, "--queries", 2, "--episodes", 5, "--output_dir", tmp_path / "results"]
    flags = ["--model_name_or_path", model, model, "--model_labels", "lower", "upper", "--data_dir", sounds]
    script("few_shot.py", monkeypatch, *flags, *few, "--embedding_layer", 1, 3, "--pooling", "mean")
    models = json.loads((tmp_path / "results" / "results.json").read_text())["models"]
    assert [(one["name"], one["path"]) for one in models] == [
        ("lower", f"{model}, embedding_layer=1, pooling=mean"), ("upper", f"{model}, embedding_layer=3, pooling=mean")
    ]  # fmt: skip
    cached = [np.load(file) for file in (tmp_path / "results" / "embeddings").iterdir()]
    for layer in (1, 3):
        expected = by_hand(model, sounds, layer)
        assert sum(np.allclose(one, expected, atol=1e-5) for one in cached) == 1
    with pytest.raises(ValueError, match="--embedding_layer has 3 values for 2 models"):
        script("few_shot.py", monkeypatch, *flags, *few, "--embedding_layer", 1, 2, 3)


def test_the_cache_tells_choices_apart(model: Path, sounds: Path, tmp_path: Path) -> None:
    recordings, cache = load_recordings(sounds), tmp_path / "cache"
    one, other = (EncoderArguments(str(model), embedding_layer=layer) for layer in (1, 2))
    first = cached_embeddings(one, recordings, cache, progress_bar=False)
    assert not np.allclose(first, cached_embeddings(other, recordings, cache, progress_bar=False))
    assert np.array_equal(first, cached_embeddings(one, recordings, cache, progress_bar=False))
    assert len(list(cache.iterdir())) == 2


def test_random_weights_are_drawn_anew_and_never_cached(model: Path, sounds: Path, tmp_path: Path) -> None:
    source = EncoderArguments(str(model), random_weights=True)
    for _ in range(2):
        results = evaluate_encoders({"random": source}, sounds, protocols=FEW, cache_dir=tmp_path / "cache")
        assert results["models"][0]["path"] == f"{model}, random_weights=True"
    assert not (tmp_path / "cache").exists()
