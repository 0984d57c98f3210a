"""What is to be learnt is read as it stands, and what cannot be learnt is refused by name."""

import dataclasses

import numpy as np
import pytest
from toy_sounds import log_mels, tones

from uamix_hf.data import DataError, PreparedData
from uamix_hf.data.labels import draw_labelled
from uamix_hf.data.recordings import load_recordings
from uamix_hf.fine_tuning import LabelArguments, Targets, check_training_labels, draw_shots, read_targets, with_labels

ROWS = ["bark,dog;rain,1.5", "purr,cat,-2", "hiss,,3e2", "bark,rain,0"]


@pytest.fixture
def table(tmp_path):
    """`table(lines, header)`: recordings with these columns after `file_name`; no sound is read."""

    def table(lines=ROWS, header="label,tags,height"):
        for number in range(len(lines)):
            (tmp_path / f"{number}.wav").touch()
        text = [f"file_name,{header}", *(f"{number}.wav,{line}" for number, line in enumerate(lines))]
        (tmp_path / "metadata.csv").write_text("\n".join(text))
        return load_recordings(tmp_path)

    return table


def test_one_class_several_classes_and_numbers(table):
    single = read_targets(table(), "label", LabelArguments())
    assert single.problem_type == "single_label_classification" and single.names == ["bark", "hiss", "purr"]
    assert single.values.tolist() == [0, 2, 1, 0] and single.values.dtype == np.int64
    several = read_targets(table(), "tags", LabelArguments(label_separator=";"))
    assert several.problem_type == "multi_label_classification" and several.names == ["cat", "dog", "rain"]
    assert several.values.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert several.values.dtype == np.float32
    number = read_targets(table(), "height", LabelArguments(problem_type="regression"))
    assert number.names == ["height"] and number.values.tolist() == [1.5, -2, 300, 0]
    assert single.model_settings() == {
        "id2label": {0: "bark", 1: "hiss", 2: "purr"},
        "label2id": {"bark": 0, "hiss": 1, "purr": 2},
        "problem_type": "single_label_classification",
    }


@pytest.mark.parametrize(
    "column, arguments, message",
    [
        (None, {}, "--label_column.*label, tags, height"),
        ("breed", {}, "no column 'breed'"),
        ("tags", {}, r"2.wav has no tags"),
        ("label", {"problem_type": "regression"}, "0.wav has label='bark', which is not a finite number"),
    ],
)
def test_columns_that_do_not_hold_what_is_asked_for(table, column, arguments, message):
    with pytest.raises(DataError, match=message):
        read_targets(table(), column, LabelArguments(**arguments))


@pytest.mark.parametrize("value", ["", "nan", "inf", "-Infinity", "1,5", "tall"])
def test_values_that_are_no_finite_numbers_are_named(table, value):
    recordings = table(["1", f'"{value}"'], "height")
    with pytest.raises(DataError, match="1.wav has height='.*', which is not a finite number"):
        read_targets(recordings, "height", LabelArguments(problem_type="regression"))


def test_one_class_alone_is_refused(table):
    with pytest.raises(DataError, match="1 classes"):
        read_targets(table(["a", "a"], "label"), "label", LabelArguments())


@pytest.mark.parametrize(
    "train, test, message",
    [
        ([0, 0, 1, 2], [2, 1], None),
        ([0, 0, 1], [1, 2], "The test rows have clips of purr, of which there is no training row"),
        ([1, 1], [1], r"1 classes \(hiss\)"),
    ],
)
def test_classes_must_be_among_the_training_rows(table, train, test, message):
    targets = read_targets(table(), "label", LabelArguments())
    several = dataclasses.replace(targets, problem_type="multi_label_classification")
    for one, shape in ((targets, lambda rows: np.array(rows)), (several, lambda rows: np.eye(3)[rows])):
        if message is None:
            check_training_labels(shape(train), {"test": shape(test)}, one)
        else:
            with pytest.raises(DataError, match=message):
                check_training_labels(shape(train), {"test": shape(test)}, one)


def test_equal_numbers_are_nothing_to_learn(table):
    targets = read_targets(table(), "height", LabelArguments(problem_type="regression"))
    check_training_labels(np.array([1.0, 2.0]), {"eval": np.array([5.0])}, targets)
    with pytest.raises(DataError, match="All 2 training rows have height=3"):
        check_training_labels(np.array([3.0, 3.0]), {}, targets)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"problem_type": "multi_label_classification"}, "need a separator"),
        ({"problem_type": "regression", "label_separator": ";"}, "label_separator=';'"),
        ({"k_shot": 0}, "k_shot=0"),
        ({"k_shot": 2, "label_separator": ";"}, "k_shot=2 counts clips per class"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelArguments(**arguments)


def test_few_clips_per_class_are_those_of_the_evaluation_protocols(table):
    waves, labels = tones(12)
    targets = read_targets(table(["abc"[label] for label in labels], "label"), "label", LabelArguments())
    dataset = with_labels(log_mels(waves), targets.values)
    data = PreparedData(dataset, [], None, {}, table(["abc"[label] for label in labels], "label"))
    drawn = draw_shots(data, targets, 2, seed=4)
    assert drawn.dataset["sample_id"][:].tolist() == sorted(draw_labelled(labels, np.arange(12), 2, 4))
    assert np.bincount(drawn.dataset["labels"][:]).tolist() == [2, 2, 2]
    assert drawn.recordings["label"] == ["abc"[label] for label in drawn.dataset["labels"][:]]
    others = {tuple(draw_shots(data, targets, 2, seed).dataset["sample_id"][:].tolist()) for seed in range(5)}
    assert len(others) > 2
    with pytest.raises(DataError, match="Class 'a' has 4 training rows, k_shot=5"):
        draw_shots(data, targets, 5, seed=4)


def test_rows_without_any_class_cannot_be_measured_on():
    targets = Targets(np.zeros((0, 2), np.float32), ["dog", "rain"], "multi_label_classification")
    train = np.array([[1, 0], [0, 1]], np.float32)
    check_training_labels(train, {"eval": np.array([[0, 0], [0, 1]], np.float32)}, targets)
    with pytest.raises(DataError, match="None of the 3 test rows has a class"):
        check_training_labels(train, {"test": np.zeros((3, 2), np.float32)}, targets)


def test_rows_that_cannot_tell_models_apart_are_refused(table):
    """Of one class, or each of the same classes: whoever always says these has accuracy or mAP 1."""
    targets = read_targets(table(), "label", LabelArguments())
    several = dataclasses.replace(targets, problem_type="multi_label_classification")
    train = np.arange(3)
    with pytest.raises(DataError, match=r"All 4 eval rows are of the same class \(hiss\)"):
        check_training_labels(train, {"test": train, "eval": np.ones(4, int)}, targets)
    check_training_labels(np.eye(3), {"eval": np.eye(3)[[1, 1]] + np.eye(3)[[0, 1]]}, several)
    with pytest.raises(DataError, match=r"All 2 eval rows are of the same class \(bark, hiss\)"):
        check_training_labels(np.eye(3), {"eval": np.float32([[1, 1, 0]] * 2)}, several)
