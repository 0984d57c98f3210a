"""Average precision against its definition, closed forms and ties, and the module in a process of its own."""

import shutil
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from metric_processes import compute_offline

from uamix_hf.evaluation.probes import average_precisions
from uamix_hf.metrics.modules import load_metric, metric_folder


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Sum over descending scores of the precision there times the positives it adds; equal scores enter at once."""
    ranking = sorted(zip(scores.tolist(), labels.tolist(), strict=True), reverse=True)
    total, taken, found = Fraction(0), 0, 0
    for _, tied in groupby(ranking, key=lambda pair: pair[0]):
        added = [label for _, label in tied]
        taken, found = taken + len(added), found + sum(added)
        total += Fraction(found, taken) * sum(added)
    return float(total / found)


def compute(scores, references) -> dict:
    return load_metric("mean_average_precision").compute(predictions=scores, references=references)


@pytest.mark.slow
def test_numbers_of_a_fresh_process(tmp_path: Path) -> None:
    folder = tmp_path / "mean_average_precision"
    shutil.copytree(metric_folder("mean_average_precision"), folder)  # alone, as in a Space
    scores = [[0.9, 0.4, 0.5], [0.8, 0.4, 0.1], [0.1, 0.4, 0.7]]
    cases = [
        {"predictions": scores, "references": [[1, 0, 0], [0, 1, 0], [1, 0, 0]]},
        {"predictions": [], "references": []},
        {"predictions": scores, "references": [[0, 0, 0]] * 3},
        {"predictions": scores, "references": [[1, 0, 0.5]] * 3},
        {"predictions": scores, "references": [[1, 0]] * 3},
        {"predictions": [[0.1, float("nan")]], "references": [[1, 0]]},
        {"predictions": [0.1, 0.2], "references": [1, 0]},
        {"predictions": scores, "references": [[1, 1, 0]] * 3},
    ]
    results = compute_offline(folder, tmp_path / "home", cases)
    by_hand, empty, none, shared, narrow, diverged, flat, alike = results
    assert by_hand["by_class"] == {"0": pytest.approx((1 + 2 / 3) / 2), "1": pytest.approx(1 / 3)}  # class 1 is tied
    assert by_hand["mean_average_precision"] == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert by_hand["left_out"] == [2]
    # One ranking: + .9, .8, .7, .5, three of .4 with one of them right, and at last two of .1, again one right.
    assert by_hand["micro_average_precision"] == pytest.approx((1 + 2 / 7 + 3 / 9) / 3)
    assert empty == "There are no predictions."
    assert none == "None of the 3 clips has a class: there is nothing to measure."
    assert shared == "References are 0 or 1, not 0.5."
    assert narrow == "Rows have [2, 3] values: each needs one for every class."
    assert diverged == "1 of 2 scores are not finite."
    assert "expected format" in flat
    assert alike == "None of the 3 clips differs from another in its classes: there is nothing to measure."


@pytest.mark.parametrize("decimals", [1, 6])
def test_precision_by_definition(decimals: int) -> None:
    """With one decimal most scores are tied."""
    rng = np.random.default_rng(decimals)
    references = (rng.random((60, 7)) < [0.02, 0.1, 0.3, 0.5, 0.9, 0.0, 1.0]).astype(int)
    references[0, 0] = 1
    scores = np.round(rng.normal(size=(60, 7)) + references, decimals)
    result = compute(scores, references)
    expected = {number: average_precision(scores[:, number], references[:, number]) for number in range(5)}
    assert result["by_class"] == pytest.approx(expected) and result["left_out"] == [5, 6]  # no clip has 5, all have 6
    assert result["mean_average_precision"] == pytest.approx(sum(expected.values()) / 5)
    overall = average_precision(scores.ravel(), references.ravel())
    assert result["micro_average_precision"] == pytest.approx(overall)
    assert result["by_class"] == dict(zip(*reversed(average_precisions(references == 1, scores)), strict=True))


def test_closed_forms() -> None:
    """Of 10 clips with one that has the class: 1 / its rank, and 1 / 10 where all are equal."""
    places = np.arange(10)
    references = (places[:, None] == places).astype(int)  # class k is of clip k, which stands in rank k + 1
    scores = np.tile(-places[:, None].astype(float), (1, 10))
    assert compute(scores, references)["by_class"] == pytest.approx({k: 1 / (k + 1) for k in range(10)})
    assert compute(scores * 0, references)["mean_average_precision"] == pytest.approx(0.1)
    assert compute(references, references)["mean_average_precision"] == 1.0


def test_logits_and_probabilities_serve_alike() -> None:
    rng = np.random.default_rng(3)
    logits, references = rng.normal(size=(40, 5)), rng.integers(0, 2, (40, 5))
    assert compute(logits, references) == compute(1 / (1 + np.exp(-logits)), references.astype(bool))
