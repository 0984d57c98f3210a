"""examples/few_shot.py as its users run it, its figures recomputed from the embeddings with scikit-learn."""

import csv
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import run_example
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sound_events import write_corpus

from uamix_hf import AudioEmbedder, AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEModel
from uamix_hf.data.labels import draw_labelled
from uamix_hf.evaluation import SplitError, draw_episodes

ROOT = Path(__file__).parents[2]

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Runs the example in this process: another takes seconds to start."""

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["examples/few_shot.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / "few_shot.py"), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """144 rendered clips; also of which take, with which tags, and one class with a name that is code."""
    folder = write_corpus(tmp_path_factory.mktemp("corpus"), clips_per_class=8)
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["label"] = EVIL if row["label"] == "siren" else row["label"]
        row["take"] = f"{row['label']} {row['fold']}"
        row["tags"] = f"{row['label']}; even" if number % 2 == 0 else row["label"]
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small encoders with random weights, saved in folders `first` and `second`."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        config = AudioMAEConfig(
            hidden_size=24 + 12 * seed, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, max_length=512
        )
        AudioMAEModel(config).save_pretrained(folder / name)
        AudioMAEFeatureExtractor(max_length=512).save_pretrained(folder / name)
    return [folder / "first", folder / "second"]


@pytest.fixture(scope="module")
def finished(corpus: Path, models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Output folder of a run of all protocols on both models, and what it printed."""
    folder = tmp_path_factory.mktemp("results") / "results"
    flags = [
        "--model_name_or_path", *models, "--data_dir", corpus,
        "--group_column", "take", "--fold_column", "fold", "--protocol", "few_shot", "low_shot", "knn", "linear",
        "--classifiers", "nearest_centroid", "logistic_regression", "--k_shot", "1", "2", "--queries", "3",
        "--episodes", "30", "--low_shot_k", "1", "3", "--low_shot_seeds", "2", "--neighbours", "1", "--seed", "5",
        "--output_dir", folder,
    ]  # fmt: skip
    return folder, run_example("few_shot.py", *flags).well()


class Truth:
    """The corpus as a reader of metadata.csv sees it, and the embeddings of one model."""

    def __init__(self, corpus: Path, model: Path) -> None:
        with open(corpus / "metadata.csv", newline="", encoding="utf-8") as file:
            self.rows = list(csv.DictReader(file))
        self.names = sorted({row["label"] for row in self.rows})
        self.labels = np.array([self.names.index(row["label"]) for row in self.rows])
        self.takes = np.unique([row["take"] for row in self.rows], return_inverse=True)[1]
        self.folds = np.array([int(row["fold"]) for row in self.rows])
        paths = [corpus / row["file_name"] for row in self.rows]
        self.vectors = AudioEmbedder.from_pretrained(str(model)).encode(paths, progress_bar=False)

    def classify(self, classifier: str, support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
        centre = self.vectors[support].mean(axis=0)
        peer = NearestCentroid() if classifier == "nearest_centroid" else LogisticRegression(C=1.0, max_iter=5000)
        with np.errstate(invalid="ignore"):  # a single clip per class has no variance, which is not needed
            peer.fit(normalize(self.vectors[support] - centre), labels)
        return peer.predict(normalize(self.vectors[query] - centre))


@pytest.fixture(scope="module")
def truths(corpus: Path, models: list[Path]) -> list[Truth]:
    return [Truth(corpus, model) for model in models]


@pytest.fixture(scope="module")
def results(finished: tuple[Path, str]) -> dict:
    return json.loads((finished[0] / "results.json").read_text())


def entries(results: dict, model: int, protocol: str) -> list[dict]:
    return [one for one in results["models"][model]["scores"] if one["protocol"] == protocol]


def check_trials(entry: dict, means: list[float]) -> None:
    """Mean and interval of the means of draws; a clip on the border between two classes may fall either way."""
    assert entry["trials"] == len(means)
    assert entry["mean"] == pytest.approx(np.mean(means), abs=2e-3)
    quantile = stats.norm.ppf(0.975) if len(means) >= 30 else stats.t.ppf(0.975, len(means) - 1)
    assert entry["interval"] == pytest.approx(quantile * stats.sem(means), rel=0.02, abs=1e-3)


@pytest.mark.parametrize("model", [0, 1])
def test_few_shot(results: dict, truths: list[Truth], model: int) -> None:
    truth = truths[model]
    found = entries(results, model, "few_shot")
    assert [one["k"] for one in found] == [1, 2, 1, 2]
    for entry in found:
        means = []
        for episode in draw_episodes(truth.labels, truth.takes, 5, entry["k"], 3, 30, seed=5):
            predicted = truth.classify(entry["classifier"], episode.support, episode.support_labels, episode.query)
            means.append(balanced_accuracy_score(episode.query_labels, predicted))
        check_trials(entry, means)


@pytest.mark.parametrize("model", [0, 1])
def test_low_shot(results: dict, truths: list[Truth], model: int) -> None:
    truth = truths[model]
    for entry in entries(results, model, "low_shot"):
        means, hits = [], []
        for seed in (5, 6):
            for fold in range(1, 6):
                train, test = np.flatnonzero(truth.folds != fold), np.flatnonzero(truth.folds == fold)
                support = draw_labelled(truth.labels, train, entry["k"], seed)
                predicted = truth.classify(entry["classifier"], support, truth.labels[support], test)
                means.append(balanced_accuracy_score(truth.labels[test], predicted))
                hits.append([np.mean(predicted[truth.labels[test] == label] == label) for label in range(18)])
        check_trials(entry, means)
        assert entry["seeds"] == [5, 6]
        by_class = [entry["by_class"][name] for name in truth.names]
        np.testing.assert_allclose(by_class, np.mean(hits, axis=0), atol=0.06)


@pytest.mark.parametrize("model", [0, 1])
def test_nearest_neighbour_of_another_take(results: dict, truths: list[Truth], model: int) -> None:
    truth = truths[model]
    centred, predicted = truth.vectors - truth.vectors.mean(axis=0), []
    for row, take in enumerate(truth.takes):
        others = truth.takes != take
        peer = KNeighborsClassifier(1, metric="cosine").fit(centred[others], truth.labels[others])
        predicted.append(peer.predict(centred[row : row + 1])[0])
    (entry,) = entries(results, model, "knn")
    assert (
        entry["mean"] == pytest.approx(balanced_accuracy_score(truth.labels, predicted)) and entry["interval"] is None
    )
    assert results["models"][model]["confusion"]["knn"] == confusion_matrix(truth.labels, predicted).tolist()


@pytest.mark.parametrize("model", [0, 1])
def test_linear_probe_over_the_folds(results: dict, truths: list[Truth], model: int) -> None:
    truth = truths[model]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    predicted = cross_val_predict(probe, truth.vectors.astype(float), truth.labels, cv=PredefinedSplit(truth.folds))
    means = [
        balanced_accuracy_score(truth.labels[truth.folds == fold], predicted[truth.folds == fold])
        for fold in range(1, 6)
    ]
    (entry,) = entries(results, model, "linear")
    check_trials(entry, means)
    matrix = np.array(results["models"][model]["confusion"]["linear"])
    assert np.abs(matrix - confusion_matrix(truth.labels, predicted)).sum() <= 2
    assert entry["mean"] > 3 / 18  # even random weights tell some of these sounds apart


def test_second_model_is_compared_with_the_first(results: dict) -> None:
    first, second = (model["scores"] for model in results["models"])
    assert [model["name"] for model in results["models"]] == ["first", "second"]
    assert len(results["comparisons"]) == len(first) == 10
    for entry, before, after in zip(results["comparisons"], first, second, strict=True):
        assert (entry["first"], entry["second"]) == ("first", "second")
        assert {entry[name] for name in ("protocol", "classifier", "k", "metric")} == {
            before[name] for name in ("protocol", "classifier", "k", "metric")
        }
        assert entry["difference"] == pytest.approx(after["mean"] - before["mean"])
        assert entry["low"] <= entry["difference"] <= entry["high"]
        for name, difference in entry["by_class"].items():
            assert difference == pytest.approx(after["by_class"][name] - before["by_class"][name])


def test_results_say_how_they_were_made(results: dict, corpus: Path, models: list[Path]) -> None:
    assert (
        results["data"]["clips"] == 144
        and results["data"]["groups"] == 18 * 5
        and len(results["data"]["classes"]) == 18
    )
    assert results["arguments"]["data_dir"] == [str(corpus)] and results["arguments"]["episodes"] == 30
    assert [model["path"] for model in results["models"]] == list(map(str, models))
    assert results["versions"]["torch"] == torch.__version__ and results["versions"]["numpy"] == np.__version__


def test_screen_report_and_plots(finished: tuple[Path, str], results: dict) -> None:
    folder, printed = finished
    assert (
        "144 clips of 18 classes" in printed
        and "report.html" in printed
        and "difference" in printed
        and "1-shot" in printed
    )
    html = (folder / "report.html").read_text(encoding="utf-8")
    for entry in results["models"][1]["scores"]:
        assert f"{100 * entry['mean']:.1f}" in printed and f"<td>{100 * entry['mean']:.1f}" in html
    assert "<script" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert 'src="http' not in html and "href=" not in html
    for name in ("accuracy_by_labels.png", "class_gains.png", "confusion.png", "embeddings.png"):
        with Image.open(folder / name) as plot:
            plot.load()
            assert plot.width >= 900


def test_one_model_with_several_labels_a_clip(
    corpus: Path, models: list[Path], truths: list[Truth], evaluate: Callable, tmp_path: Path
) -> None:
    evaluate(
        "--model_name_or_path", models[0], "--model_labels", "mine", "--data_dir", corpus, "--where", "fold=1,2",
        "--where", "fold=2,1", "--label_column", "tags", "--label_separator", ";", "--protocol", "knn", "linear",
        "--neighbours", 200, "--fold_column", "fold", "--output_dir", tmp_path,
    )  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["data"]["multi_label"] and results["data"]["clips"] == 72 and len(results["data"]["classes"]) == 19
    knn, linear = results["models"][0]["scores"]
    rows = [row for row in truths[0].rows if row["fold"] in "12"]
    vectors = truths[0].vectors[truths[0].folds <= 2]
    even = np.array(["even" in row["tags"] for row in rows])
    centred = vectors - vectors.mean(axis=0)
    others = NearestNeighbors(n_neighbors=4, metric="cosine", algorithm="brute").fit(centred).kneighbors(centred)[1]
    assert others[:, 0].tolist() == list(range(72)) and knn["neighbours"] == 3
    assert knn["by_class"]["even"] == pytest.approx(average_precision_score(even, even[others[:, 1:]].mean(axis=1)))
    precisions = []
    for fold in "12":
        train, test = (np.array([row["fold"] != fold for row in rows]), np.array([row["fold"] == fold for row in rows]))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000)).fit(
            vectors[train], even[train]
        )
        precisions.append(average_precision_score(even[test], probe.decision_function(vectors[test])))
    assert linear["by_class"]["even"] == pytest.approx(np.mean(precisions), abs=0.02)
    assert results["comparisons"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "report.html", "embeddings"}


def test_embeddings_are_made_once(
    corpus: Path, models: list[Path], finished: tuple[Path, str], evaluate: Callable, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cache = finished[0] / "embeddings"
    evaluate("--model_name_or_path", models[1], "--data_dir", corpus, "--episodes", 5, "--output_dir", tmp_path,
             "--cache_dir", cache)  # fmt: skip
    assert "Embedding" not in capsys.readouterr().err and len(list(cache.iterdir())) == 2
    again = json.loads((tmp_path / "results.json").read_text())
    assert [(one["protocol"], one["classifier"], one["k"]) for one in again["models"][0]["scores"]] == [
        ("few_shot", "nearest_centroid", 1), ("few_shot", "nearest_centroid", 5),
    ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json", "report.html", "accuracy_by_labels.png", "embeddings.png",
    }  # fmt: skip


def test_labels_that_the_data_cannot_give_are_an_error_before_anything_is_embedded(
    corpus: Path, models: list[Path], evaluate: Callable, tmp_path: Path
) -> None:
    with pytest.raises(SplitError, match="'.*' has 6 clips among the training rows of a split, low_shot_k=20 needs 20"):
        evaluate("--model_name_or_path", models[0], "--data_dir", corpus, "--protocol", "low_shot",
                 "--fold_column", "fold", "--output_dir", tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_models_need_names_of_their_own(models: list[Path], evaluate: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --model_labels one name for each model, all different"):
        evaluate("--model_name_or_path", models[0], models[0], "--data_dir", tmp_path, "--output_dir", tmp_path)


@pytest.mark.slow
def test_fine_tuning_is_measured_on_the_draws_of_low_shot(
    evaluate, corpus: Path, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four classes, with an update or two: what it takes is another test's matter."""
    import uamix_hf.evaluation.fine_tuning as fine_tuning

    short = fine_tuning.FineTuningArguments
    monkeypatch.setattr(fine_tuning, "FineTuningArguments", lambda **more: short(max_steps=2, use_cpu=True, **more))
    evaluate(
        "--model_name_or_path", *models, "--data_dir", corpus, "--where", "label=dog_bark,rain,clock_ticks,footsteps",
        "--fold_column", "fold", "--protocol", "low_shot", "fine_tune", "--low_shot_k", 2, "--low_shot_seeds", 1,
        "--output_dir", tmp_path,
    )  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    for number in (0, 1):
        (frozen,), (tuned,) = (entries(results, number, protocol) for protocol in ("low_shot", "fine_tune"))
        assert tuned["trials"] == frozen["trials"] == 5 and tuned["seeds"] == frozen["seeds"] == [0]
        assert tuned["k"] == 2 and 0 <= tuned["mean"] <= 1 and tuned["by_class"].keys() == frozen["by_class"].keys()
    assert {one["protocol"] for one in results["comparisons"]} == {"low_shot", "fine_tune"}
    assert "fine-tuned" in (tmp_path / "report.html").read_text()
