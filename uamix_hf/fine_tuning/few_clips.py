"""A classifier of a few clips per class on a frozen encoder, with what its decisions rest on."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.preprocessing import normalize

from ..audio.loading import load_audio
from ..embedding.embedder import AudioEmbedder
from ..embedding.overlap import half_overlapping
from .head_init import linear_head, set_head
from .models import make_classifier

WINDOW_SECONDS = 1.0


class Neighbour(NamedTuple):
    """A labelled clip that is like a new one: its class, its source, and the cosine similarity in [-1, 1]."""

    label: str
    source: Any
    similarity: float


class Window(NamedTuple):
    """A part of a clip from `start` to `end` in s, and the probability of each class for it alone."""

    start: float
    end: float
    probabilities: dict[str, float]


class Prediction(NamedTuple):
    """What a new clip is.

    Args:
        probabilities: Probability of each class.
        neighbours: Labelled clips, the most similar first.
        windows: What is said of each part of the clip.
        embedding: Of the whole clip (embedding_size,) float32.
    """

    probabilities: dict[str, float]
    neighbours: list[Neighbour]
    windows: list[Window]
    embedding: np.ndarray


class FewClipsClassifier:
    """Nearest-centroid classifier of the frozen embeddings of a few clips per class.

    Args:
        embedder: The encoder; its embedding should be whitened.
        clips: Sources that [`load_audio`] accepts, by class.

    Raises:
        AudioInputError: A clip that cannot be read; the message names it.
        ValueError: Fewer than two classes, a class without a name or without clips.
    """

    def __init__(self, embedder: AudioEmbedder, clips: Mapping[str, Sequence[Any]]):
        if len(clips) < 2:
            raise ValueError(f"{len(clips)} classes: give clips of two or more.")
        for name, sources in clips.items():
            if not name.strip() or not sources:
                raise ValueError(f"The class {name!r} has {len(sources)} clips: give each class a name and a clip.")
        self.embedder, self.classes = embedder, list(clips)
        self.sources = [source for sources in clips.values() for source in sources]
        self.labels = np.repeat(np.arange(len(clips)), [len(sources) for sources in clips.values()])
        self.vectors = embedder.encode(self.sources, progress_bar=False)
        self.weight, self.bias = linear_head(self.vectors, self.labels, len(clips), "centroid")

    def probabilities(self, vectors: np.ndarray) -> list[dict[str, float]]:
        """Probability of each class for each of some embeddings (clips, embedding_size)."""
        rows = softmax(vectors @ self.weight.T + self.bias, axis=1)
        return [dict(zip(self.classes, row.tolist(), strict=True)) for row in rows]

    def predict(self, clip: Any) -> Prediction:
        """Classifies a clip.

        Args:
            clip: A source that [`load_audio`] accepts.

        Raises:
            AudioInputError: A clip that cannot be read; the message names it.
        """
        rate = self.embedder.feature_extractor.sampling_rate
        samples = load_audio(clip, rate)
        parts = list(half_overlapping(samples, rate, WINDOW_SECONDS))
        vectors = self.embedder.encode([samples, *parts], progress_bar=False)
        whole, *said = self.probabilities(vectors)
        starts = [number * WINDOW_SECONDS / 2 for number in range(len(parts))]
        windows = [
            Window(start, start + len(part) / rate, values)
            for start, part, values in zip(starts, parts, said, strict=True)
        ]
        centre = self.vectors.mean(axis=0)
        similarities = (normalize(self.vectors - centre) @ normalize(vectors[:1] - centre).T)[:, 0]
        neighbours = [
            Neighbour(self.classes[self.labels[row]], self.sources[row], float(similarities[row]))
            for row in np.argsort(-similarities, kind="stable")
        ]
        return Prediction(whole, neighbours, windows, vectors[0])

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Saves encoder and linear layer as a folder for `pipeline("audio-classification")`.

        Args:
            folder: Folder, created if it does not exist.
        """
        extractor = self.embedder.feature_extractor
        names = dict(enumerate(self.classes))
        model: Any = make_classifier(
            self.embedder.adapter.encoder, len(names), extractor, id2label=names,
            label2id={name: number for number, name in names.items()}, problem_type="single_label_classification",
        )  # fmt: skip
        set_head(model, self.weight, self.bias)
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)


__all__ = ["FewClipsClassifier", "Neighbour", "Prediction", "Window"]
