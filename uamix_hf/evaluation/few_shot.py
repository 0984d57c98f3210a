"""Few-shot episodes on frozen embeddings (docs/concepts/evaluation.md, Few-shot episodes)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..metrics.checks import EvaluationError, check_clips, check_single_label
from .classifiers import find_classifier
from .scores import Scores


class EpisodeError(EvaluationError):
    """The data do not suffice for the episodes; the message names the setting to change."""


@dataclass(frozen=True)
class Episode:
    """One few-shot episode.

    Args:
        support: Rows of the labelled clips (n_way * k_shot,).
        support_labels: Their class numbers in the episode, 0 ... n_way - 1.
        query: Rows of the clips to classify (queries,).
        query_labels: Their class numbers in the episode.
    """

    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray


def draw_episodes(
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    n_way: int = 5,
    k_shot: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> Iterator[Episode]:
    """Random few-shot episodes.

    No query shares a group with a support clip of its episode; a class that is left without a query is not used in
    that episode.

    Args:
        labels: Class numbers (clips,).
        groups: Speaker or source of each clip (clips,); each clip is its own by default.
        n_way: Classes per episode.
        k_shot: Support clips per class.
        queries: Clips to classify per class, at most.
        episodes: Number of episodes.
        seed: Random seed.

    Raises:
        EpisodeError: too few classes with more than `k_shot` clips, groups that leave no queries, or a number below 1.
    """
    for name, number in {"n_way": n_way, "k_shot": k_shot, "queries": queries, "episodes": episodes}.items():
        if number < 1:
            raise EpisodeError(f"{name}={number}: at least one is needed.")
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
    """Episode of the first `n_way` classes that leave queries to each other; None where there are too few.

    Args:
        chosen: Rows of each class, classes and rows in random order.
        groups: Speaker or source of each clip (clips,).
        n_way: Classes.
        k_shot: Support clips per class.
        queries: Clips to classify per class, at most.
    """
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


def few_shot_accuracy(
    embeddings: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    n_way: int = 5,
    k_shot: int = 5,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    classifier: str = "nearest_centroid",
) -> Scores:
    """Accuracy of each class of each episode; a trial is an episode.

    The same seed gives the same episodes, so that two encoders can be compared in pairs.

    Args:
        embeddings: float (clips, embedding_size).
        labels: Class numbers (clips,).
        groups: Speaker or source of each clip (clips,), which support and queries never share.
        n_way: Classes per episode.
        k_shot: Support clips per class.
        queries: Clips to classify per class, at most.
        episodes: Number of episodes.
        seed: Random seed.
        classifier: A key of `CLASSIFIERS`.

    Raises:
        EvaluationError: several labels per clip, embeddings or labels that cannot be used, or no such classifier.
        EpisodeError: the data do not suffice for the episodes.
    """
    check_single_label(labels, "few_shot_accuracy")
    check_clips(embeddings, labels, groups)
    predict = find_classifier(classifier)
    correct, classes, trials = [], [], []
    for number, episode in enumerate(draw_episodes(labels, groups, n_way, k_shot, queries, episodes, seed)):
        predicted = predict(embeddings[episode.support], episode.support_labels, embeddings[episode.query])
        correct.append(predicted == episode.query_labels)
        classes.append(labels[episode.query])
        trials.append(np.full(len(episode.query), number))
    return Scores.from_clips(np.concatenate(correct), np.concatenate(classes), np.concatenate(trials))


__all__ = ["Episode", "EpisodeError", "draw_episodes", "few_shot_accuracy"]
