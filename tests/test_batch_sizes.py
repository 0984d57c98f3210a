"""A batch size is a integer of at least one, whichever function takes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import Dataset

from uamix_hf import (
    AudioEmbedder,
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEForAudioClassification,
    AudioMAEModel,
    fit_whitening,
)
from uamix_hf.data import FeatureCollator, LengthBucketSampler, cached_features, load_recordings
from uamix_hf.embedding.features import embed_features
from uamix_hf.evaluation import cached_embeddings
from uamix_hf.fine_tuning import predict_logits
from uamix_hf.fine_tuning.batches import ClassBalancedSampler
from uamix_hf.fine_tuning.predictions import predict
from uamix_hf.tuning.callbacks import KNNCallback

EXTRACTOR = AudioMAEFeatureExtractor(max_length=64)


@pytest.fixture(scope="module")
def model() -> AudioMAEForAudioClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    return AudioMAEForAudioClassification(AudioMAEConfig(**sizes, max_length=64, num_labels=2)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: AudioMAEForAudioClassification) -> Path:
    """Four clips, and the encoder that embeds them."""
    folder = tmp_path_factory.mktemp("batch_sizes")
    (folder / "clips").mkdir()
    for seed in range(4):
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 8000)
        soundfile.write(folder / "clips" / f"{seed}.wav", noise, 16_000)
    model.base_model.save_pretrained(folder / "model")
    EXTRACTOR.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def recordings(folder: Path) -> Dataset:
    return load_recordings(str(folder / "clips"))


@pytest.fixture(scope="module")
def dataset(recordings: Dataset) -> Dataset:
    return cached_features(recordings, EXTRACTOR).dataset.add_column("labels", [0, 0, 1, 1])


Take = Callable[[Any], Any]


@pytest.fixture(scope="module")
def takers(model, folder: Path, recordings: Dataset, dataset: Dataset) -> dict[str, Take]:
    encoder: AudioMAEModel = model.base_model
    wave, collator = np.ones(8000, np.float32), FeatureCollator(EXTRACTOR, 64, normalize=True)
    rows, cache = np.arange(3), folder / "cache"
    return {
        "encode": lambda size: AudioEmbedder(encoder, EXTRACTOR).encode([wave, wave], size, progress_bar=False),
        "encode one": lambda size: AudioEmbedder(encoder, EXTRACTOR).encode(wave, batch_size=size),
        "cached_embeddings": lambda size: cached_embeddings(folder / "model", recordings, cache, size, False),
        "embed_features": lambda size: embed_features(encoder, EXTRACTOR, dataset, batch_size=size),
        "predict_logits": lambda size: predict_logits(model, EXTRACTOR, dataset, batch_size=size),
        "predict": lambda size: predict(model, EXTRACTOR, dataset, rows, size),
        "fit_whitening": lambda size: fit_whitening(encoder, EXTRACTOR, dataset, 2, batch_size=size),
        "KNNCallback": lambda size: KNNCallback(dataset, collator, batch_size=size),
        "LengthBucketSampler": lambda size: list(LengthBucketSampler([3, 4, 5], size)),
        "ClassBalancedSampler": lambda size: ClassBalancedSampler([3, 4, 5], np.array([0, 1, 1]), size),
    }  # fmt: skip


NAMES = (
    "encode", "encode one", "cached_embeddings", "embed_features", "predict_logits", "predict", "KNNCallback",
    "LengthBucketSampler", "ClassBalancedSampler", "fit_whitening",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_other_is_refused(takers: dict[str, Take], name: str) -> None:
    assert set(takers) == set(NAMES)
    takers[name](np.int64(2))  # also leaves something in the cache, where there is one
    for size in (0, -1, 2.0, True, "2", None):
        with pytest.raises(ValueError, match=r"batch_size=.*integer of at least 1"):
            takers[name](size)
