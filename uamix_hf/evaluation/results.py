"""The protocols for several encoders on the same draws, and what results.json says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.metrics import confusion_matrix

from ..data import LabelledClips
from ..data.checks import refuse_idle
from ..metrics.checks import EvaluationError, check_single_label, is_multi_label
from ..metrics.knn import resolve_neighbours
from ..version import package_versions
from .classifiers import CLASSIFIERS
from .few_shot import draw_episodes, few_shot_accuracy
from .fine_tuning import fine_tune_low_shot
from .low_shot import low_shot_accuracy
from .probes import knn_probe, linear_probe
from .scores import Scores, paired_difference
from .splits import Split, SplitError, make_splits

PROTOCOLS = ("few_shot", "low_shot", "fine_tune", "knn", "linear")
# Arguments, and the protocols that read them.
USED_BY = {
    ("classifiers",): ("few_shot", "low_shot"),
    ("n_way", "k_shot", "queries", "episodes"): ("few_shot",),
    ("low_shot_k", "low_shot_seeds"): ("low_shot", "fine_tune"),
    ("n_splits",): ("low_shot", "fine_tune", "linear"),
    ("neighbours",): ("knn",),
}


@dataclass
class ProtocolArguments:
    """What to measure, and with which numbers."""

    protocol: list[str] = field(
        default_factory=lambda: ["few_shot"],
        metadata={
            "choices": PROTOCOLS,
            "help": "few_shot: episodes of a few classes. low_shot: k labelled clips of every class, all test clips. "
            "fine_tune: the same draws, but the whole encoder learns from the labelled clips. "
            "knn: every clip by its nearest others. linear: a linear probe on all training clips.",
        },
    )
    classifiers: list[str] = field(
        default_factory=lambda: ["nearest_centroid"],
        metadata={"choices": tuple(CLASSIFIERS), "help": "What learns from the labelled clips (few_shot, low_shot)."},
    )
    n_way: int = field(default=5, metadata={"help": "Classes in an episode (few_shot)."})
    k_shot: list[int] = field(default_factory=lambda: [1, 5], metadata={"help": "Labelled clips per class (few_shot)."})
    queries: int = field(default=15, metadata={"help": "Clips to classify per class of an episode (few_shot)."})
    episodes: int = field(default=600, metadata={"help": "Episodes (few_shot)."})
    low_shot_k: list[int] = field(
        default_factory=lambda: [1, 2, 5, 10, 20],
        metadata={"help": "Labelled clips per class (low_shot, fine_tune)."},
    )
    low_shot_seeds: int = field(default=5, metadata={"help": "Draws of the labelled clips in each split (low_shot)."})
    n_splits: int = field(
        default=5, metadata={"help": "Random splits, where no column tells the folds (low_shot, fine_tune, linear)."}
    )
    neighbours: int = field(default=10, metadata={"help": "Clips that vote (knn)."})
    seed: int = field(default=0, metadata={"help": "Of everything that is drawn."})

    def __post_init__(self) -> None:
        for names, protocols in USED_BY.items():
            if not set(protocols) & set(self.protocol):
                refuse_idle(self, names, f"--protocol {' or '.join(protocols)}")
        least = {"n_way": 2, "n_splits": 2, "seed": 0}
        for option, value in vars(self).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and number < least.get(option, 1):
                    raise ValueError(f"{option}={number}: at least {least.get(option, 1)} is needed.")


@dataclass(frozen=True)
class Measurement:
    """
    Args:
        protocol: One of `PROTOCOLS`.
        predictions: What [`knn_probe`] and [`linear_probe`] return. classifier, k: Where the protocol has them.
        seeds: Of the draws. neighbours: That voted, which may be fewer than were asked for.
    """

    protocol: str
    scores: Scores
    predictions: np.ndarray | None = None
    classifier: str | None = None
    k: int | None = None
    seeds: Sequence[int] = ()
    metric: str = "accuracy"
    neighbours: int | None = None


def check_draws(clips: LabelledClips, args: ProtocolArguments) -> list[Split]:
    """The splits that the protocols need, after a look whether the data can give all draws: before hours of embedding.

    Raises:
        EvaluationError: a protocol that takes one class a clip, and clips have several. SplitError: splits, or `k`
            labelled clips per class, that the data cannot give. EpisodeError: likewise, of episodes.
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
    splits = make_splits(clips.labels, clips.groups, clips.folds, args.n_splits, args.seed, clips.group_names)
    if {"low_shot", "fine_tune"} & set(args.protocol):
        for train, _ in splits:
            of_class = np.bincount(clips.labels[train], minlength=len(clips.names))
            unit = "clips among the training rows of a split"
            require("low_shot_k", max(args.low_shot_k), of_class, unit, clips.names)
    return splits


def require(option: str, needed: int, of_class: np.ndarray, unit: str, names: Sequence[str]) -> None:
    """
    Raises:
        SplitError: a class has fewer clips or groups than `option` needs.
    """
    least = int(of_class.argmin())
    if of_class[least] < needed:
        raise SplitError(
            f"Class {names[least]!r} has {of_class[least]} {unit}, {option}={needed} needs {needed}: lower {option}, "
            "or leave the class out with --where."
        )


def measure(
    vectors: np.ndarray,
    clips: LabelledClips,
    splits: Sequence[Split],
    args: ProtocolArguments,
    path: str | Path = "",
    recordings: Dataset | None = None,
) -> list[Measurement]:
    """All protocols asked for, of one encoder; the same arguments give every encoder the same draws.

    Args:
        vectors: Its embeddings (clips, width). splits: Of [`check_draws`].
        path, recordings: Of the encoder and the clips; fine_tune alone reads them.
    """
    labels, groups, seed = clips.labels, clips.groups, args.seed
    seeds = list(range(seed, seed + args.low_shot_seeds))
    metric = "average_precision" if is_multi_label(labels) else "accuracy"
    found: list[Measurement] = []
    if "few_shot" in args.protocol:
        for classifier in args.classifiers:
            for k in args.k_shot:
                scores = few_shot_accuracy(
                    vectors, labels, groups, args.n_way, k, args.queries, args.episodes, seed, classifier
                )
                found.append(Measurement("few_shot", scores, classifier=classifier, k=k, seeds=[seed]))
    if "low_shot" in args.protocol:
        for classifier in args.classifiers:
            for k in args.low_shot_k:
                scores = low_shot_accuracy(vectors, labels, splits, k, seeds, classifier)
                found.append(Measurement("low_shot", scores, classifier=classifier, k=k, seeds=seeds))
    if "fine_tune" in args.protocol:
        if recordings is None:
            raise EvaluationError("fine_tune trains on sound: give the encoder's path and the recordings.")
        for k in args.low_shot_k:
            scores = fine_tune_low_shot(path, recordings, labels, splits, k, seeds)
            found.append(Measurement("fine_tune", scores, k=k, seeds=seeds))
    if "knn" in args.protocol:
        voting, _ = resolve_neighbours(labels, groups, args.neighbours, clips.names)
        scores, predictions = knn_probe(vectors, labels, groups, voting, clips.names)
        found.append(Measurement("knn", scores, predictions, metric=metric, neighbours=voting))
    if "linear" in args.protocol:
        drawn = [seed] if clips.folds is None else []
        found.append(
            Measurement("linear", *linear_probe(vectors, labels, splits, clips.names), metric=metric, seeds=drawn)
        )
    return found


def result_tree(
    arguments: Mapping[str, Any],
    clips: LabelledClips,
    paths: Mapping[str, str],
    measurements: Mapping[str, Sequence[Measurement]],
) -> dict[str, Any]:
    """Everything that was measured, as results.json holds it; shares of 1 throughout.

    Args:
        arguments: All settings of the run. paths: Folder or repository of each model by its name.
        measurements: Of each model by its name, in the same order for all. Later models are compared with the first.
    """
    first, *others = measurements
    return {
        "arguments": dict(arguments),
        "versions": package_versions(),
        "data": {
            "clips": len(clips.labels),
            "classes": clips.names,
            "groups": None if clips.groups is None else len(np.unique(clips.groups)),
            "multi_label": is_multi_label(clips.labels),
        },
        "models": [
            {
                "name": name,
                "path": paths[name],
                "scores": [score_entry(one, clips.names) for one in found],
                "confusion": confusions(found, clips),
            }
            for name, found in measurements.items()
        ],
        "comparisons": [
            {"first": first, "second": other} | comparison_entry(one, two, clips.names)
            for other in others
            for one, two in zip(measurements[first], measurements[other], strict=True)
        ],
    }


def what_was_measured(measurement: Measurement) -> dict[str, Any]:
    return {name: getattr(measurement, name) for name in ("protocol", "classifier", "k", "metric", "neighbours")}


def score_entry(measurement: Measurement, names: Sequence[str]) -> dict[str, Any]:
    scores = measurement.scores
    return what_was_measured(measurement) | {
        "draws": len(scores.by_draw),
        "seeds": list(measurement.seeds),
        "mean": scores.mean,
        "interval": scores.interval,
        "by_class": {names[number]: mean for number, mean in scores.by_class().items()},
    }


def comparison_entry(first: Measurement, second: Measurement, names: Sequence[str]) -> dict[str, Any]:
    """Second minus first, with a 95 % interval over draws and classes."""
    difference = paired_difference(first.scores, second.scores)
    before, after = first.scores.by_class(), second.scores.by_class()
    return what_was_measured(first) | {
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "by_class": {names[number]: after[number] - mean for number, mean in before.items()},
    }


def confusions(measurements: Sequence[Measurement], clips: LabelledClips) -> dict[str, list[list[int]]]:
    """Numbers of clips by true (outer) and predicted class, by protocol; clips without a prediction are left out."""
    matrices = {}
    for one in measurements:
        if one.predictions is not None and not is_multi_label(clips.labels):
            rows = one.predictions >= 0
            numbers = range(len(clips.names))
            matrix = confusion_matrix(clips.labels[rows], one.predictions[rows], labels=numbers)
            matrices[one.protocol] = matrix.tolist()
    return matrices


__all__ = [
    "PROTOCOLS",
    "Measurement",
    "ProtocolArguments",
    "check_draws",
    "comparison_entry",
    "measure",
    "result_tree",
    "score_entry",
]
