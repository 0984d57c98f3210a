"""The module of `evaluate` loads in a process of its own, alone, and gives the numbers of Scores."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from metric_processes import compute_offline
from scipy.stats import t

from uamix_hf.evaluation import Scores
from uamix_hf.metrics.modules import metric_folder

METRIC = metric_folder("few_shot_accuracy")


def cases() -> list[dict[str, list[int]]]:
    """By hand; a single episode; and 2 to 40 episodes of clips at random: from 30 on the interval is another."""
    drawn = [
        {"predictions": [0, 1, 0, 0, 0], "references": [0, 1, 0, 1, 1], "episodes": [4, 4, 9, 9, 9]},
        {"predictions": [3, 3], "references": [3, 5], "episodes": [0, 0]},
    ]
    for episodes in (2, 29, 30, 40):
        rng = np.random.default_rng(episodes)
        references = rng.integers(0, 6, 20 * episodes)
        predictions = np.where(rng.random(len(references)) < 0.6, references, rng.integers(0, 6, len(references)))
        columns = {"predictions": predictions, "references": references, "episodes": np.arange(len(references)) // 20}
        drawn.append({name: values.tolist() for name, values in columns.items()})
    return drawn


def test_numbers_of_a_fresh_process(tmp_path: Path) -> None:
    folder = tmp_path / "few_shot_accuracy"
    shutil.copytree(METRIC, folder)  # alone, as in a Space
    empty = {"predictions": [], "references": [], "episodes": []}
    *results, refusal = compute_offline(folder, tmp_path / "home", [*cases(), empty], absent=("scipy", "sklearn"))
    assert refusal == "There are no predictions."
    by_hand, single, *_ = results
    assert by_hand == {
        "accuracy": pytest.approx(0.75),  # (1 + 1) / 2 and (1 + 0) / 2
        "interval": pytest.approx(12.7062 * 0.25),
        "by_class": {"0": 1.0, "1": 0.5},
    }
    assert single == {"accuracy": 0.5, "interval": None, "by_class": {"3": 1.0, "5": 0.0}}
    for case, result in zip(cases(), results, strict=True):
        predictions, references, episodes = map(np.array, case.values())
        scores = Scores.from_clips(predictions == references, references, episodes)
        assert result["accuracy"] == pytest.approx(scores.mean)
        assert result["interval"] == (scores.interval and pytest.approx(scores.interval, rel=1e-4))
        assert result["by_class"] == pytest.approx({str(label): value for label, value in scores.by_class().items()})


def test_the_table_is_students() -> None:
    listed = re.search(r"STUDENT = \((.*?)\)", (METRIC / "few_shot_accuracy.py").read_text(), re.DOTALL)
    values = [float(value) for value in listed[1].replace("\n", " ").split(",") if value.strip()]
    assert values == pytest.approx(t.ppf(0.975, range(1, 29)), abs=1e-4)
