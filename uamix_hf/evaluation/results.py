"""The results tree: scores of every encoder and their differences, as results.json holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from ..data import LabelledClips
from ..metrics.checks import is_multi_label
from ..version import package_versions
from .protocols import Measurement
from .scores import paired_difference


def result_tree(
    arguments: Mapping[str, Any],
    clips: LabelledClips,
    paths: Mapping[str, str],
    measurements: Mapping[str, Sequence[Measurement]],
) -> dict[str, Any]:
    """Put all measurements into one tree that JSON can hold; scores are fractions in [0, 1].

    Args:
        arguments: All settings of the run.
        clips: Labels of the clips.
        paths: Folder or repository of each encoder, by its name.
        measurements: Of each encoder by its name, in the same order for all. Later encoders are compared with the
            first.

    Returns:
        Keys `arguments`, `versions`, `data`, `models` (with `scores` and `confusion` each) and `comparisons`.
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


def protocol_entry(measurement: Measurement) -> dict[str, Any]:
    """Fields that identify a measurement among those of one encoder."""
    return {name: getattr(measurement, name) for name in ("protocol", "classifier", "k", "metric", "neighbours")}


def score_entry(measurement: Measurement, names: Sequence[str]) -> dict[str, Any]:
    """Mean, interval and means of the classes of one measurement."""
    scores = measurement.scores
    return protocol_entry(measurement) | {
        "trials": len(scores.by_trial),
        "seeds": list(measurement.seeds),
        "mean": scores.mean,
        "interval": scores.interval,
        "by_class": {names[number]: mean for number, mean in scores.by_class().items()},
    }


def comparison_entry(first: Measurement, second: Measurement, names: Sequence[str]) -> dict[str, Any]:
    """Second minus first, with its 95 % interval over trials and classes."""
    difference = paired_difference(first.scores, second.scores)
    before, after = first.scores.by_class(), second.scores.by_class()
    return protocol_entry(first) | {
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


__all__ = ["comparison_entry", "result_tree", "score_entry"]
