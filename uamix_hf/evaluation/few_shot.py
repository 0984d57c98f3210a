"""Few-shot episodes on frozen embeddings (method.md 3.6)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize


class EpisodeError(ValueError):
    """The data cannot give the episodes asked for; the message says which number to change."""


@dataclass(frozen=True)
class Episode:
    """Rows of the labelled clips and of the clips to classify, with the rows' class numbers 0 ... n_way - 1."""

    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of each episode (episodes,), in [0, 1]."""

    episodes: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.episodes.mean())

    @property
    def interval(self) -> float:
        """Half width of the 95 % interval of the mean over episodes of this pool of clips (normal approximation)."""
        return float(1.96 * self.episodes.std(ddof=1) / np.sqrt(len(self.episodes)))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.interval:.1f}"


def draw_episodes(
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    n_way: int = 5,
    k_shot: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> Iterator[Episode]:
    """Episodes of `n_way` random classes with `k_shot` labelled clips each and up to `queries` clips to classify.

    No query shares a group with any labelled clip of its episode; a class that is left without a query is not drawn in
    that episode.

    Args:
        labels: Class of each clip (clips,). groups: Speaker or source of each clip (clips,); each its own by default.

    Raises:
        EpisodeError: too few classes with more than `k_shot` clips, or groups that leave no queries.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(labels)) if groups is None else groups
    clips = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    classes = [label for label, rows in clips.items() if len(rows) > k_shot]
    if len(classes) < n_way:
        raise EpisodeError(
            f"{len(classes)} classes have more than {k_shot} clips, {n_way} are needed: lower n_way or k_shot."
        )
    for _ in range(episodes):
        for _attempt in range(100):
            chosen = [rng.permutation(clips[label]) for label in rng.permutation(classes)]
            episode = fill_episode(chosen, groups, n_way, k_shot, queries)
            if episode is not None:
                yield episode
                break
        else:
            raise EpisodeError(
                f"No {n_way} classes give {k_shot} labelled clips and a query from other groups: lower n_way or k_shot."
            )


def fill_episode(chosen: list[np.ndarray], groups: np.ndarray, n_way: int, k_shot: int, queries: int) -> Episode | None:
    """The first `n_way` classes that go together, of shuffled classes of shuffled clips; None if too few do."""
    waiting = list(chosen)
    drawn: list[np.ndarray] = []
    while True:
        drawn += [waiting.pop(0) for _ in range(min(n_way - len(drawn), len(waiting)))]
        if len(drawn) < n_way:
            return None
        taken = np.unique(groups[np.concatenate([rows[:k_shot] for rows in drawn])])
        free = [rows[k_shot:][~np.isin(groups[rows[k_shot:]], taken)][:queries] for rows in drawn]
        if all(len(rows) for rows in free):
            break
        drawn = [rows for rows, left in zip(drawn, free, strict=True) if len(left)]
    return Episode(
        support=np.concatenate([rows[:k_shot] for rows in drawn]),
        support_labels=np.repeat(np.arange(n_way), k_shot),
        query=np.concatenate(free),
        query_labels=np.repeat(np.arange(n_way), [len(rows) for rows in free]),
    )


def nearest_centroid(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Class of each query (queries,): centroids of unit vectors, after the mean of the labelled clips is taken off."""
    # Not sklearn's NearestCentroid: it weighs classes by their size, and fails where all vectors are equal.
    centre, classes = support.mean(axis=0), np.unique(labels)
    unit = normalize(support - centre)
    centroids = np.stack([unit[labels == label].mean(axis=0) for label in classes])
    return classes[euclidean_distances(normalize(query - centre), centroids).argmin(axis=1)]


def few_shot_accuracy(
    vectors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    n_way: int = 5,
    k_shot: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> Accuracy:
    """Accuracy of nearest-centroid classification on embeddings (clips, width). The same seed draws the same episodes,
    so that two models compare clip by clip; see [`draw_episodes`] for the rest."""
    results = []
    for episode in draw_episodes(labels, groups, n_way, k_shot, queries, episodes, seed):
        predicted = nearest_centroid(vectors[episode.support], episode.support_labels, vectors[episode.query])
        results.append((predicted == episode.query_labels).mean())
    return Accuracy(np.array(results))


__all__ = ["Accuracy", "Episode", "EpisodeError", "draw_episodes", "few_shot_accuracy", "nearest_centroid"]
