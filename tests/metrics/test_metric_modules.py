"""Every module of `evaluate`: its page computes its example, its card is true."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from metric_processes import run_offline

from uamix_hf.metrics.modules import load_metric, metric_folder

NAMES = ("classification_accuracy", "few_shot_accuracy", "mean_average_precision")
APP = """
import json, pathlib, runpy, sys, types

shown = {}


class Interface:
    def __init__(self, **settings):
        shown.update(settings)

    def launch(self):
        tables = shown["inputs"] if isinstance(shown["inputs"], list) else [shown["inputs"]]
        rows = [table["value"] for table in tables]
        width = len(rows[0][0])
        unfinished = [table + [[""] * width, [None] + [1] * (width - 1)] for table in rows]
        shown["printed"] = [tables[0].get("headers"), shown["fn"](*rows), shown["fn"](*unfinished)]


sys.modules["gradio"] = types.SimpleNamespace(Interface=Interface, Dataframe=dict, JSON=dict)
sys.modules["uamix_hf"] = None
results = {}
for app in pathlib.Path(sys.argv[1]).glob("*/app.py"):
    runpy.run_path(str(app), run_name="__main__")
    results[shown["title"]] = shown["printed"]
print(json.dumps(results))
"""


def test_each_page_computes_its_example(tmp_path: Path) -> None:
    """gradio is not installed here: a stand-in takes what it would be given."""
    for number, name in enumerate(NAMES):
        shutil.copytree(metric_folder(name), tmp_path / str(number))  # a Space's folder has another name than it
    (line,) = run_offline(APP, tmp_path / "home", tmp_path)
    results = json.loads(line)
    assert results.keys() == {"Classification accuracy", "Few-shot accuracy", "Mean average precision"}
    assert all(with_empty_cells == result for _, result, with_empty_cells in results.values())
    headers, result, _ = results["Classification accuracy"]
    assert headers == ["predictions", "references"] and result["confusion_matrix"] == [[2, 0], [1, 1]]
    headers, result, _ = results["Few-shot accuracy"]
    assert headers == ["predictions", "references", "episodes"]
    assert result["accuracy"] == 0.75 and result["by_class"] == {"0": 1.0, "1": 0.5}
    _, result, _ = results["Mean average precision"]
    assert result["by_class"] == {"0": pytest.approx((1 + 2 / 3) / 2), "1": 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_that_of_a_metric_and_its_example_is_true(name: str) -> None:
    folder = metric_folder(name)
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["sdk"] == "gradio" and {"evaluate", "metric"} <= set(card["tags"])
    assert (folder / card["app_file"]).is_file()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = example.replace(f'evaluate.load("{name}")', "evaluate.load(folder)")
    assert code != example
    scope = {"folder": str(folder)}
    exec(code.replace("metric.compute(", "result = metric.compute("), scope)
    assert re.sub(r"(\.\d{3})\d+", r"\1...", str(scope["result"])) in example


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_its_help_is_true(name: str) -> None:
    metric = load_metric(name)
    call, value = re.search(r">>> (metric\..*)\n\s+(\S+)", metric.inputs_description).groups()
    assert eval(call, {"metric": metric}) == float(value)


def test_an_unknown_metric_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no metric 'accuracy': there are classification_accuracy, few_shot_accuracy"):
        load_metric("accuracy")
    with pytest.raises(ValueError, match="no metric ''"):
        load_metric("")
