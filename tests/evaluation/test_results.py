"""What goes into results.json, against NumPy, scikit-learn and a bootstrap of our own."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.metrics import average_precision_score, recall_score

from uamix_hf.data import DataError, LabelledClips, load_recordings, read_labels
from uamix_hf.evaluation import (
    EpisodeError,
    Measurement,
    ProtocolArguments,
    Scores,
    SplitError,
    evaluate_embeddings,
    protocol_splits,
    result_tree,
    score_table,
)
from uamix_hf.evaluation.results import comparison_entry, score_entry
from uamix_hf.metrics.checks import EvaluationError
from uamix_hf.version import package_versions

NAMES = ["bell", "cat", "rain"]


def recordings(folder: Path, rows: list[str]):
    """A data set with the given lines of metadata.csv after the names of its files."""
    for number in range(len(rows) - 1):
        soundfile.write(folder / f"{number}.wav", np.full(1600, number / 100), 16_000)
    lines = [rows[0], *(f"{number}.wav,{row}" for number, row in enumerate(rows[1:]))]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return load_recordings(folder)


def test_labels_groups_and_folds_are_read(tmp_path: Path) -> None:
    rows = ["file_name,label,speaker,fold", "rain,anna,2", "bell,,1", "rain,,1", "cat,anna,10"]
    clips = read_labels(recordings(tmp_path, rows), "label", None, "speaker", "fold")
    assert clips.names == NAMES and clips.labels.tolist() == [2, 0, 2, 1]
    assert clips.groups[0] == clips.groups[3] and len(set(clips.groups)) == 3  # nobody is not one speaker
    others = [str(tmp_path / "1.wav"), str(tmp_path / "2.wav")]
    assert clips.group_names == ["anna", *others, "anna"] and clips.folds.tolist() == ["2", "1", "1", "10"]


def test_sets_of_labels(tmp_path: Path) -> None:
    rows = ["file_name,tags", "rain; cat", "bell", '""', "cat;;rain;cat"]
    clips = read_labels(recordings(tmp_path, rows), "tags", ";")
    assert clips.names == NAMES and clips.labels.dtype == bool
    assert clips.labels.astype(int).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        (["file_name,label", "rain", ""], "label", "1.wav has no label"),
        (["file_name,label", "rain", "rain"], "label", r"1 classes \(rain\): at least two"),
        (["file_name,label", "rain", "cat"], "species", "no column 'species'"),
    ],
)
def test_labels_that_cannot_be_used(rows: list[str], column: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(recordings(tmp_path, rows), column)


@pytest.mark.parametrize("setting", [{"n_way": 1}, {"k_shot": [1, 0]}, {"low_shot_seeds": 0}, {"seed": -1}])
def test_numbers_too_small_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        ProtocolArguments(**setting)


def test_numbers_of_protocols_that_are_not_measured_are_refused() -> None:
    with pytest.raises(ValueError, match="n_way, episodes: without effect here, go with --protocol few_shot"):
        ProtocolArguments(["knn"], n_way=3, episodes=20)
    with pytest.raises(ValueError, match="classifiers: without effect here, goes with --protocol few_shot or low_shot"):
        ProtocolArguments(["linear"], classifiers=["logistic_regression"])


def test_data_that_cannot_give_the_draws_is_refused_by_name() -> None:
    labels = np.repeat(np.arange(3), [10, 7, 10])
    clips = LabelledClips(NAMES, labels)
    with pytest.raises(EpisodeError, match="3 classes have more than 1 clips, 5 are needed"):
        protocol_splits(clips, ProtocolArguments())
    with pytest.raises(SplitError, match="Class 'cat' has 5 clips .* low_shot_k=20 needs 20: lower low_shot_k"):
        protocol_splits(clips, ProtocolArguments(["low_shot"]))
    with pytest.raises(SplitError, match="Class 'cat' has 7 clips, n_splits=8 needs 8: lower n_splits"):
        protocol_splits(clips, ProtocolArguments(["linear"], n_splits=8))
    grouped = LabelledClips(NAMES, labels, groups=np.where(labels == 1, 0, np.arange(27)))
    with pytest.raises(SplitError, match="Class 'cat' has 1 groups"):
        protocol_splits(grouped, ProtocolArguments(["linear"]))
    several = LabelledClips(NAMES, np.eye(3, dtype=bool)[labels])
    with pytest.raises(EvaluationError, match="few_shot takes one class a clip"):
        protocol_splits(several, ProtocolArguments())
    assert len(protocol_splits(clips, ProtocolArguments(["low_shot"], low_shot_k=[1, 5], n_splits=5))) == 5
    assert protocol_splits(clips, ProtocolArguments(["knn"])) == []


def noisy(labels: np.ndarray, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.eye(3)[labels] + noise * rng.standard_normal((len(labels), 3))).astype(np.float32)


ALL = ProtocolArguments(
    ["few_shot", "low_shot", "knn", "linear"], ["nearest_centroid", "logistic_regression"], n_way=2, k_shot=[1, 2],
    queries=3, episodes=40, low_shot_k=[1, 4], low_shot_seeds=3, neighbours=1, seed=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def tree() -> dict:
    labels = np.repeat(np.arange(3), [10, 12, 14])
    clips = LabelledClips(NAMES, labels, folds=np.array(["a", "b"])[np.arange(36) % 2])
    splits = protocol_splits(clips, ALL)
    found = {
        name: evaluate_embeddings(noisy(labels, noise, 1), clips, splits, ALL)
        for name, noise in (("weak", 1.0), ("strong", 0.3), ("weak again", 1.0))
    }
    return result_tree({"seed": 7}, clips, dict.fromkeys(found, "folder"), found)


def test_tree_has_all_measurements_of_all_models(tree: dict) -> None:
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    assert tree["data"] == {"clips": 36, "classes": NAMES, "groups": None, "multi_label": False}
    assert tree["versions"] == package_versions()
    kinds = [
        *((protocol, classifier, k)
          for protocol, ks in (("few_shot", (1, 2)), ("low_shot", (1, 4)))
          for classifier in ("nearest_centroid", "logistic_regression") for k in ks),
        ("knn", None, None), ("linear", None, None),
    ]  # fmt: skip
    draws = {"few_shot": 40, "low_shot": 6, "knn": 1, "linear": 2}
    seeds = {"few_shot": [7], "low_shot": [7, 8, 9], "knn": [], "linear": []}
    for model in tree["models"]:
        assert [(one["protocol"], one["classifier"], one["k"]) for one in model["scores"]] == kinds
        for one in model["scores"]:
            assert one["trials"] == draws[one["protocol"]] and one["seeds"] == seeds[one["protocol"]]
            assert one["metric"] == "accuracy" and set(one["by_class"]) == set(NAMES)
            assert (one["interval"] is None) == (one["protocol"] == "knn")
    pairs = [(one["first"], one["second"]) for one in tree["comparisons"]]
    assert pairs == [("weak", "strong")] * 10 + [("weak", "weak again")] * 10


def test_the_neighbours_that_voted_are_told_and_degenerate_data_are_refused_before_anything_is_embedded() -> None:
    labels = np.repeat(np.arange(3), [4, 12, 14])
    clips = LabelledClips(NAMES, labels)
    for asked, voted in ((2, 2), (10, 3)):
        args = ProtocolArguments(["knn"], neighbours=asked)
        found = evaluate_embeddings(np.eye(3)[labels] + 0.01 * np.eye(30, 3), clips, protocol_splits(clips, args), args)
        tree = result_tree({"neighbours": asked}, clips, {"a": "a"}, {"a": found})
        (entry,) = tree["models"][0]["scores"]
        assert entry["neighbours"] == voted and entry["mean"] == 1.0
        assert f"{voted} nearest neighbours" in str(score_table(tree))
    alone = LabelledClips(NAMES, labels, groups=labels)
    with pytest.raises(EvaluationError, match="Each class has clips of a single group"):
        protocol_splits(alone, ProtocolArguments(["knn"]))


def test_models_meet_the_same_draws(tree: dict) -> None:
    assert tree["models"][0]["scores"] == tree["models"][2]["scores"]
    for one in tree["comparisons"][10:]:
        assert one["difference"] == one["low"] == one["high"] == 0.0
    assert all(
        one["difference"] > 0.1 and one["low"] <= one["difference"] <= one["high"] for one in tree["comparisons"][:10]
    )


def test_confusions_agree_with_the_scores_of_each_class(tree: dict) -> None:
    for model in tree["models"]:
        for protocol, matrix in model["confusion"].items():
            matrix = np.array(matrix)
            assert matrix.sum(axis=1).tolist() == [10, 12, 14]
            if protocol == "knn":  # the accuracy of a fold is that of all its clips, not of all clips
                (by_class,) = [one["by_class"] for one in model["scores"] if one["protocol"] == "knn"]
                np.testing.assert_allclose(np.diag(matrix) / matrix.sum(axis=1), list(by_class.values()))


def test_confusion_leaves_out_clips_without_a_prediction() -> None:
    clips = LabelledClips(NAMES, np.array([0, 0, 1, 2, 2]))
    truth, predictions = clips.labels, np.array([0, 2, -1, 2, 0])
    scores = Scores.from_clips(truth == predictions, truth, np.zeros(5, int))
    model = result_tree({}, clips, {"a": "a"}, {"a": [Measurement("knn", scores, predictions)]})["models"][0]
    assert model["confusion"] == {"knn": [[1, 0, 1], [0, 0, 0], [1, 0, 1]]}
    assert model["scores"][0]["mean"] == pytest.approx(
        recall_score(truth, predictions, average=None, labels=[0, 1, 2]).mean()
    )


def test_difference_has_the_interval_of_a_bootstrap_over_draws_and_classes() -> None:
    rng = np.random.default_rng(0)
    classes, draws = np.tile(np.arange(3), 30), np.repeat(np.arange(30), 3)
    first = rng.uniform(0.2, 0.6, 90)
    gains = np.array([0.3, 0.0, 0.1])[classes] + rng.uniform(-0.1, 0.1, 90)
    one, two = (Measurement("few_shot", Scores(values, classes, draws), k=1) for values in (first, first + gains))
    entry = comparison_entry(one, two, NAMES)
    table = gains.reshape(30, 3)
    means = [table[rng.integers(0, 30, 30)][:, rng.integers(0, 3, 3)].mean() for _ in range(4000)]
    assert entry["difference"] == pytest.approx(gains.mean())
    np.testing.assert_allclose([entry["low"], entry["high"]], np.quantile(means, [0.025, 0.975]), atol=0.015)
    np.testing.assert_allclose(list(entry["by_class"].values()), table.mean(axis=0))
    assert list(entry["by_class"]) == NAMES
    assert entry["by_class"]["bell"] == pytest.approx(
        score_entry(two, NAMES)["by_class"]["bell"] - score_entry(one, NAMES)["by_class"]["bell"]
    )


def test_several_labels_a_clip_are_scored_by_average_precision() -> None:
    rng = np.random.default_rng(3)
    labels = rng.random((60, 3)) < 0.4
    vectors = (labels + 0.5 * rng.standard_normal((60, 3))).astype(np.float32)
    clips, args = LabelledClips(NAMES, labels), ProtocolArguments(["knn", "linear"], neighbours=5)
    found = evaluate_embeddings(vectors, clips, protocol_splits(clips, args), args)
    tree = result_tree({}, clips, {"a": "a"}, {"a": found})
    assert tree["data"]["multi_label"] and tree["models"][0]["confusion"] == {}
    knn, linear = tree["models"][0]["scores"]
    assert knn["metric"] == linear["metric"] == "average_precision"
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    shares = labels[np.argsort(-similarity, axis=1)[:, :5]].mean(axis=1)
    assert knn["mean"] == pytest.approx(average_precision_score(labels, shares, average="macro"))
    assert labels.mean() + 0.2 < linear["mean"] <= 1 and linear["trials"] == 5 and linear["interval"] > 0
