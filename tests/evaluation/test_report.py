"""The page and the table against the results they are made of."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uamix_hf.data import LabelledClips
from uamix_hf.evaluation import (
    Measurement,
    Scores,
    class_table,
    confusion_table,
    result_tree,
    score_table,
    write_plots,
    write_report,
)
from uamix_hf.evaluation.tables import preferred_measurement

EVIL = "<script>alert('1')</script>"
NAMES = [EVIL, 'rain & "wind"', "sea"]
ARGUMENTS = {
    "data_dir": ["folder/<b>bold</b>"], "label_column": "label", "group_column": "speaker", "where": ["fold=4,5"],
    "n_way": 2, "queries": 15, "neighbours": 10, "low_shot_seeds": 2, "n_splits": 2, "seed": 11,
}  # fmt: skip
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Text, tags and attributes of a page; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def check_self_contained(self) -> list[Image.Image]:
        """Nothing is loaded or run; returns the plots."""
        plots = []
        for tag, attributes in self.tags:
            assert tag not in ("script", "link", "iframe", "object", "base")
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href", "srcset", "data", "action"):
                if name in attributes:
                    head, _, content = attributes[name].partition(",")
                    assert head == "data:image/png;base64"
                    plots.append(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))
                    plots[-1].load()
        return plots


def scores(seed: int, trials: int) -> Scores:
    values = np.random.default_rng(seed).uniform(0.2, 0.8, 3 * trials)
    return Scores(values, np.tile(np.arange(3), trials), np.repeat(np.arange(trials), 3))


def model(seed: int) -> list[Measurement]:
    predictions = np.random.default_rng(seed).integers(0, 3, 30)
    return [
        Measurement("few_shot", scores(seed, 40), classifier="nearest_centroid", k=1, seeds=[11]),
        Measurement("few_shot", scores(seed + 1, 40), classifier="nearest_centroid", k=5, seeds=[11]),
        Measurement("low_shot", scores(seed + 2, 4), classifier="logistic_regression", k=2, seeds=[11, 12]),
        Measurement("knn", scores(seed + 3, 1), predictions),
        Measurement("linear", scores(seed + 4, 2), predictions, seeds=[11]),
    ]


def results(*names: str) -> dict:
    clips = LabelledClips(NAMES, np.repeat(np.arange(3), 10), groups=np.arange(30) // 2)
    found = {name: model(10 * number) for number, name in enumerate(names)}
    return result_tree(ARGUMENTS, clips, {name: f"path/{name}" for name in names}, found)


def vectors(*names: str) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32) for name in names}


def test_table_has_every_score_with_its_interval() -> None:
    tree = results("before", "after")
    table = score_table(tree)
    assert table.titles == ["accuracy in %", "before", "after", "difference [95 %]"]
    assert [row[0] for row in table.rows] == [
        "few-shot, 2 classes, nearest centroid", "1-shot", "5-shot",
        "low-shot, all 3 classes, logistic regression", "2 per class",
        "all labelled clips", "10 nearest neighbours", "linear probe",
    ]  # fmt: skip
    for row, seed in zip((row for row in table.rows if len(row) > 1), range(5), strict=True):
        before, after = model(0)[seed].scores, model(10)[seed].scores
        assert row[1:3] == [str(before), str(after)]
        low, high = (float(end) for end in row[3].split("[")[1].rstrip("]").split(","))
        difference = float(row[3].split(" ")[0])
        assert difference == pytest.approx(100 * (after.mean - before.mean), abs=0.051)
        assert low <= difference <= high
    lines = str(table).splitlines()
    assert len({line.index("±") for line in lines if "±" in line and len(line.split("±")) == 3}) == 1
    assert lines[0].index("difference") == lines[3].index(table.rows[1][3])
    assert all(line == line.rstrip() for line in lines)


def test_table_of_one_and_of_three_models() -> None:
    assert score_table(results("only")).titles == ["accuracy in %", "only"]
    table = score_table(results("a", "b", "c"))
    assert table.titles[1:] == ["a", "b", "c", "b, difference [95 %]", "c, difference [95 %]"]
    for row, seed in zip((row for row in table.rows if len(row) > 1), range(5), strict=True):
        for cell, other in zip(row[4:], (10, 20), strict=True):
            difference = model(other)[seed].scores.mean - model(0)[seed].scores.mean
            assert float(cell.split(" ")[0]) == pytest.approx(100 * difference, abs=0.051)


def test_class_by_class_shows_the_most_labels_in_few_shot() -> None:
    tree = results("a", "b", "c")
    assert preferred_measurement(tree) == 1
    table = class_table(tree)
    assert table.titles == ["class", "a", "b", "c", "difference"]
    first, last = model(0)[1].scores.by_class(), model(20)[1].scores.by_class()
    assert [row[0] for row in table.rows] == NAMES
    for number, row in enumerate(table.rows):
        assert row[1] == f"{100 * first[number]:.1f}" and row[3] == f"{100 * last[number]:.1f}"
        assert row[4] == f"{100 * (last[number] - first[number]):+.1f}"


def test_most_frequent_confusions_come_first() -> None:
    tree = results("a", "b")
    tree["models"][0]["confusion"] = {"knn": [[9, 9, 9]] * 3, "linear": [[7, 3, 0], [0, 9, 1], [0, 0, 5]]}
    tree["models"][1]["confusion"] = {"knn": [[9, 9, 9]] * 3, "linear": [[9, 1, 0], [0, 5, 5], [0, 0, 5]]}
    rows = [[NAMES[1], "sea", "1 of 10", "5 of 10"], [EVIL, NAMES[1], "3 of 10", "1 of 10"]]
    assert confusion_table(tree).rows == rows
    assert confusion_table(tree).titles == ["class", "predicted as", "a", "b"]


def test_page_holds_everything_and_needs_nothing(tmp_path: Path) -> None:
    tree = results(EVIL, "after")
    plots = write_plots(tmp_path, tree, vectors(EVIL, "after"), np.repeat(np.arange(3), 10))
    names = ["accuracy_by_labels.png", "class_gains.png", "confusion.png", "embeddings.png"]
    assert [plot.path.name for plot in plots] == names
    write_report(tmp_path / "report.html", tree, plots, "python few_shot.py --where '<i>'")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    page = Page(html)
    sizes = [plot.size for plot in page.check_self_contained()]
    assert sizes == [Image.open(tmp_path / name).size for name in names]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    for part in (EVIL, *NAMES, "folder/<b>bold</b>", "fold=4,5", "30 clips of 3 classes", "15 groups (speaker)",
                 "40 episodes", "4 trials", "Seed 11", "python few_shot.py --where '<i>'",
                 "does not cover a new pool of clips",
                 *(f"{name} {version}" for name, version in tree["versions"].items())):  # fmt: skip
        assert " ".join(part.split()) in page.words, part
    for table in (score_table(tree), class_table(tree), confusion_table(tree)):
        assert all(row in page.rows for row in [table.titles, *table.rows])


def test_every_table_scrolls_by_itself(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", results("a", "b"))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count('<div class="scroll"><table>') == html.count("<table>") == 3
    assert ".scroll { overflow-x: auto; }" in html and "max-width: 100%" in html


def test_only_what_was_measured_is_shown(tmp_path: Path) -> None:
    clips = LabelledClips(NAMES, np.eye(3, dtype=bool)[np.repeat(np.arange(3), 10)])
    found = [Measurement("linear", scores(0, 5), metric="average_precision")]
    tree = result_tree({"label_column": "tags", "seed": 0}, clips, {"only": "path"}, {"only": found})
    assert write_plots(tmp_path, tree, vectors("only"), clips.labels) == []
    write_report(tmp_path / "report.html", tree)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.check_self_contained() == []
    assert "average precision in %" in page.words and "Linear probe" in page.words
    for absent in ("Few-shot", "Nearest neighbours", "difference", "Most frequent confusions", "None", "Undefined"):
        assert absent not in page.words
    assert "No groups were given" in page.words


def test_one_model_has_a_map_and_a_confusion_but_no_gain(tmp_path: Path) -> None:
    tree = results("only")
    plots = write_plots(tmp_path, tree, vectors("only"), np.repeat(np.arange(3), 10))
    assert [plot.path.name for plot in plots] == ["accuracy_by_labels.png", "confusion.png", "embeddings.png"]
