"""Runs evaluation protocols on embeddings, with the same splits and episodes for every encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ..data import LabelledClips
from ..metrics.checks import EvaluationError, check_single_label, is_multi_label
from ..metrics.knn import resolve_neighbours
from .arguments import ProtocolArguments
from .embeddings import Encoder
from .few_shot import draw_episodes, few_shot_accuracy
from .fine_tuning import fine_tune_low_shot
from .low_shot import low_shot_accuracy
from .probes import knn_probe, linear_probe
from .scores import Scores
from .splits import Split, SplitError, make_splits


@dataclass(frozen=True)
class Measurement:
    """Scores of one encoder by one protocol with one setting.

    Args:
        protocol: One of `PROTOCOLS`.
        scores: Accuracies or average precisions.
        predictions: As [`knn_probe`] and [`linear_probe`] return them; None for other protocols.
        classifier: Key of `CLASSIFIERS`, where the protocol has one.
        k: Labelled clips per class, where the protocol has them.
        seeds: Random seeds that were used.
        metric: `"accuracy"` or `"average_precision"`.
        neighbours: Neighbours that voted, which may be fewer than were asked for.
    """

    protocol: str
    scores: Scores
    predictions: np.ndarray | None = None
    classifier: str | None = None
    k: int | None = None
    seeds: Sequence[int] = ()
    metric: str = "accuracy"
    neighbours: int | None = None


def protocol_splits(clips: LabelledClips, args: ProtocolArguments) -> list[Split]:
    """Check that the data suffice for all protocols, and return the cross-validation splits that they need.

    Cheap: call it before embedding. [`evaluate_embeddings`] takes the splits.

    Args:
        clips: Of [`read_labels`].
        args: Protocols and their settings.

    Returns:
        Training and test rows of each split; [] where no protocol needs them.

    Raises:
        EvaluationError: a protocol for one class per clip, and clips have several; or neighbours that cannot vote.
        SplitError: too few clips or groups of a class for the splits, or for `low_shot_k` labelled clips.
        EpisodeError: too few clips or classes for the episodes.
    """
    for protocol in {"few_shot", "low_shot", "fine_tune"} & set(args.protocol):
        check_single_label(clips.labels, protocol)
    if "few_shot" in args.protocol:
        for k in args.k_shot:
            next(draw_episodes(clips.labels, clips.groups, args.n_way, k, args.queries, seed=args.seed))
    if "knn" in args.protocol:
        resolve_neighbours(clips.labels, clips.groups, args.neighbours, clips.names)
    if not {"low_shot", "fine_tune", "linear"} & set(args.protocol):
        return []
    if clips.folds is None and not is_multi_label(clips.labels):
        units = np.arange(len(clips.labels)) if clips.groups is None else clips.groups
        of_class = np.array([len(np.unique(units[clips.labels == number])) for number in range(len(clips.names))])
        unit = "clips" if clips.groups is None else "groups"
        require("n_splits", args.n_splits, of_class, unit, clips.names)
    splits = make_splits(
        clips.labels, clips.groups, clips.folds, args.n_splits, args.seed, clips.group_names, args.test_folds
    )
    if {"low_shot", "fine_tune"} & set(args.protocol):
        for train, _ in splits:
            of_class = np.bincount(clips.labels[train], minlength=len(clips.names))
            unit = "clips among the training rows of a split"
            require("low_shot_k", max(args.low_shot_k), of_class, unit, clips.names)
    return splits


def require(option: str, needed: int, of_class: np.ndarray, unit: str, names: Sequence[str]) -> None:
    """Check that every class has enough clips or groups.

    Args:
        option: Name of the setting that needs them.
        needed: How many it needs.
        of_class: How many each class has (classes,).
        unit: What is counted, for the message.
        names: Class names.

    Raises:
        SplitError: a class has fewer.
    """
    least = int(of_class.argmin())
    if of_class[least] < needed:
        raise SplitError(
            f"Class {names[least]!r} has {of_class[least]} {unit}, {option}={needed} needs {needed}: lower {option}, "
            "or leave the class out with --where."
        )


def evaluate_embeddings(
    embeddings: np.ndarray,
    clips: LabelledClips,
    splits: Sequence[Split],
    args: ProtocolArguments,
    encoder: Encoder | None = None,
    recordings: Dataset | None = None,
) -> list[Measurement]:
    """Run all protocols on the embeddings of one encoder.

    Equal arguments give every encoder the same episodes, splits and labelled clips.

    Args:
        embeddings: float (clips, embedding_size).
        clips: Labels of the clips, of [`read_labels`].
        splits: Of [`protocol_splits`].
        args: Protocols and their settings.
        encoder: What made the embeddings; for `fine_tune` only.
        recordings: The clips' audio, of [`load_recordings`]; for `fine_tune` only.

    Returns:
        One measurement for each protocol, classifier and number of labelled clips, in the order of `PROTOCOLS`.

    Raises:
        EvaluationError: embeddings or labels that cannot be evaluated, or `fine_tune` without encoder and recordings.
    """
    labels, groups, seed = clips.labels, clips.groups, args.seed
    seeds = list(range(seed, seed + args.low_shot_seeds))
    metric = "average_precision" if is_multi_label(labels) else "accuracy"
    found: list[Measurement] = []
    if "few_shot" in args.protocol:
        for classifier in args.classifiers:
            for k in args.k_shot:
                scores = few_shot_accuracy(
                    embeddings, labels, groups, args.n_way, k, args.queries, args.episodes, seed, classifier
                )
                found.append(Measurement("few_shot", scores, classifier=classifier, k=k, seeds=[seed]))
    if "low_shot" in args.protocol:
        for classifier in args.classifiers:
            for k in args.low_shot_k:
                scores = low_shot_accuracy(embeddings, labels, splits, k, seeds, classifier)
                found.append(Measurement("low_shot", scores, classifier=classifier, k=k, seeds=seeds))
    if "fine_tune" in args.protocol:
        if encoder is None or recordings is None:
            raise EvaluationError("fine_tune trains the encoder on audio: give the encoder and the recordings.")
        for k in args.low_shot_k:
            scores = fine_tune_low_shot(encoder, recordings, labels, splits, k, seeds)
            found.append(Measurement("fine_tune", scores, k=k, seeds=seeds))
    if "knn" in args.protocol:
        voting, _ = resolve_neighbours(labels, groups, args.neighbours, clips.names)
        scores, predictions = knn_probe(embeddings, labels, groups, voting, clips.names)
        found.append(Measurement("knn", scores, predictions, metric=metric, neighbours=voting))
    if "linear" in args.protocol:
        drawn = [seed] if clips.folds is None else []
        found.append(
            Measurement("linear", *linear_probe(embeddings, labels, splits, clips.names), metric=metric, seeds=drawn)
        )
    return found


__all__ = ["Measurement", "evaluate_embeddings", "protocol_splits"]
