"""Accuracy, balanced accuracy and confusion matrix, counted clip by clip, and the module in a process of its own."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from metric_processes import compute_offline

from uamix_hf.metrics.modules import load_metric, metric_folder


@pytest.mark.slow
def test_numbers_of_a_fresh_process(tmp_path: Path) -> None:
    folder = tmp_path / "classification_accuracy"
    shutil.copytree(metric_folder("classification_accuracy"), folder)  # alone, as in a Space
    cases = [
        {"predictions": [0, 0, 0, 2], "references": [0, 0, 2, 2]},
        {"predictions": [1], "references": [0], "num_classes": 4},
        {"predictions": [], "references": []},
        {"predictions": [0, 3], "references": [0, 1], "num_classes": 3},
        {"predictions": [0], "references": [-100]},
        {"predictions": [0, 1], "references": [0]},
    ]
    by_hand, sized, *refusals = compute_offline(folder, tmp_path / "home", cases)
    assert by_hand == {
        "accuracy": 0.75,
        "balanced_accuracy": 0.75,  # nobody is of class 1, which therefore does not count
        "by_class": {"0": 1.0, "2": 0.5},
        "confusion_matrix": [[2, 0, 0], [0, 0, 0], [1, 0, 1]],
    }
    assert np.shape(sized["confusion_matrix"]) == (4, 4) and sized["accuracy"] == sized["balanced_accuracy"] == 0
    empty, beyond, ignored, unequal = refusals
    assert empty == "There are no predictions."
    assert beyond == "Class number 3: there are 0 ... 2." and "Class number -100" in ignored
    assert "Mismatch in the number of predictions (2) and references (1)" in unequal


def test_counts_of_uneven_classes() -> None:
    """Class 4 never occurs and class 3 is never predicted."""
    rng = np.random.default_rng(0)
    references = rng.choice(4, 500, p=[0.7, 0.2, 0.06, 0.04])
    predictions = np.where(rng.random(500) < 0.5, references, 0) % 3
    result = load_metric("classification_accuracy").compute(
        predictions=predictions, references=references, num_classes=5
    )
    pairs = Counter(zip(references.tolist(), predictions.tolist(), strict=True))
    assert result["confusion_matrix"] == [[pairs[true, given] for given in range(5)] for true in range(5)]
    recalls = {true: pairs[true, true] / sum(references == true) for true in range(4)}
    assert result["by_class"] == pytest.approx(recalls)
    assert result["balanced_accuracy"] == pytest.approx(sum(recalls.values()) / 4)
    assert result["accuracy"] == pytest.approx(sum(pairs[true, true] for true in range(4)) / 500)
    assert result["accuracy"] > result["balanced_accuracy"] + 0.1


def test_guessing_the_most_frequent_class_is_balanced_to_chance() -> None:
    references = np.repeat(np.arange(4), [97, 1, 1, 1])
    result = load_metric("classification_accuracy").compute(predictions=np.zeros(100, int), references=references)
    assert result["accuracy"] == 0.97 and result["balanced_accuracy"] == 0.25
