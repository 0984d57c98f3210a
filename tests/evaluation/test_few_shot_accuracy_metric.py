"""The module of `evaluate` loads in a process of its own, alone, and gives the numbers of Scores."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import t

from uamix_hf.evaluation import Scores
from uamix_hf.hub.push import METRIC

ROOT = Path(__file__).parents[2]
COMPUTE = """
import json, sys
sys.modules["uamix_hf"] = sys.modules["scipy"] = sys.modules["sklearn"] = None  # a Space has none of them
import evaluate

metric = evaluate.load(sys.argv[1])
for line in sys.stdin:
    print(json.dumps(metric.compute(**json.loads(line))))
try:
    metric.compute(predictions=[], references=[], episodes=[])
except ValueError as error:
    print(json.dumps(str(error)))
"""


def run(code: str, folder: Path, home: Path, lines: str = "") -> list[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    process = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        input=lines, env=environment, cwd=home.parent, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


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
    lines = run(COMPUTE, folder, tmp_path / "home", "\n".join(map(json.dumps, cases())))
    *results, refusal = map(json.loads, lines)
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


APP = """
import json, runpy, sys, types

shown = {}


class Interface:
    def __init__(self, **settings):
        shown.update(settings)

    def launch(self):
        table = shown["inputs"]
        print(json.dumps([table, shown["fn"](table["value"] + [["", "", ""], [None, 1, 2]])]))


sys.modules["gradio"] = types.SimpleNamespace(Interface=Interface, Dataframe=dict, JSON=dict)
sys.modules["uamix_hf"] = None
runpy.run_path(sys.argv[1] + "/app.py", run_name="__main__")
"""


def test_the_page_computes_its_example(tmp_path: Path) -> None:
    """gradio is not installed here: a stand-in takes what it would be given."""
    folder = tmp_path / "app"  # a Space's folder has another name than its repository
    shutil.copytree(METRIC, folder)
    (line,) = run(APP, folder, tmp_path / "home")
    table, result = json.loads(line)
    assert table["headers"] == ["predictions", "references", "episodes"]
    assert result["accuracy"] == 0.75 and result["by_class"] == {"0": 1.0, "1": 0.5}


def test_the_card_is_that_of_a_metric_and_its_example_is_true(tmp_path: Path) -> None:
    _, head, text = (METRIC / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["sdk"] == "gradio" and {"evaluate", "metric"} <= set(card["tags"])
    assert (METRIC / card["app_file"]).is_file()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = example.replace('evaluate.load("few_shot_accuracy")', "evaluate.load(__import__('sys').argv[1])")
    code = code.replace("metric.compute(", "result = metric.compute(") + "print(result)"
    (printed,) = run(code, METRIC, tmp_path / "home")
    assert re.sub(r"(3\.176)\d+", r"\1...", printed) in example


def test_the_package_carries_the_module(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    code = "import setuptools; setuptools.setup()"
    command = [sys.executable, "-c", code, "-q", "egg_info", "--egg-base", str(tmp_path)]
    command += ["build_py", "--build-lib", str(tmp_path / "lib")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    for name in ("few_shot_accuracy.py", "app.py", "README.md", "requirements.txt"):
        assert (tmp_path / "lib" / METRIC.relative_to(ROOT) / name).read_bytes() == (METRIC / name).read_bytes()
