"""Figures of the Trainer's predictions, computed by hand, and what a real Trainer logs of them."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score
from toy_sounds import CONFIG, EXTRACTOR, tones
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

from uamix_hf import AudioMAEForAudioClassification
from uamix_hf.fine_tuning.metrics import best_metric, make_compute_metrics, write_confusion_matrix

NAMES = ("siren", "rain", "dog bark")
DARKEST = (0.03, 0.19, 0.42)  # the colour of a share of 1
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")


def figures(problem_type: str, predictions, labels) -> dict[str, float]:
    result = make_compute_metrics(problem_type, NAMES)(EvalPrediction(predictions, np.asarray(labels)))
    assert all(type(value) is float for value in result.values())  # trackers take nothing else
    return result


def test_accuracy_overall_balanced_and_by_class():
    logits = np.array([[2, 1, 0], [2, 1, 0], [0, 3, 1], [9, 1, 8], [0, 0, 1]], dtype=np.float32)
    result = figures("single_label_classification", logits, [0, 0, 1, 2, 2])
    assert result == {
        "accuracy": 0.8, "balanced_accuracy": pytest.approx((1 + 1 + 0.5) / 3),
        "accuracy_siren": 1.0, "accuracy_rain": 1.0, "accuracy_dog bark": 0.5,
    }  # fmt: skip


def test_average_precision_of_logits_that_a_sigmoid_would_tie():
    """Far out a sigmoid in float32 is 1 for all of them."""
    rng = np.random.default_rng(0)
    logits = (40 + 9 * rng.normal(size=(30, 3))).astype(np.float32)
    labels = (rng.random((30, 3)) < 0.3).astype(np.float32)
    result = figures("multi_label_classification", logits, labels)
    expected = [average_precision_score(labels[:, k], logits[:, k]) for k in range(3)]
    assert [result[f"average_precision_{name}"] for name in NAMES] == pytest.approx(expected)
    assert result["mean_average_precision"] == pytest.approx(np.mean(expected))
    assert result["micro_average_precision"] == pytest.approx(average_precision_score(labels.ravel(), logits.ravel()))
    assert len(result) == 5


def test_errors_and_correlation_of_values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    predictions = (values + rng.normal(size=20))[:, None]
    error = predictions[:, 0] - values
    assert figures("regression", predictions, values) == {
        "mse": pytest.approx(np.mean(error**2)), "mae": pytest.approx(np.mean(abs(error))),
        "pearson": pytest.approx(pearsonr(values, predictions[:, 0])[0]),
    }  # fmt: skip
    same = figures("regression", predictions, values[:, None])  # labels may have the logits' shape
    assert same == figures("regression", predictions, values)
    assert set(figures("regression", np.ones((20, 1)), values)) == {"mse", "mae"}


def test_hidden_states_beside_the_logits_are_left_alone():
    logits = np.eye(3)
    result = figures("single_label_classification", (logits, np.zeros((3, 4))), [0, 1, 2])
    assert result["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [("single_label_classification", [0, 2, 2]), ("multi_label_classification", [[1, 0, 1], [0, 0, 1], [0, 0, 0]])],
)
def test_a_class_without_a_clip_is_left_out_and_said_once(problem_type: str, labels: list, caplog):
    names = [f"{name} of {problem_type}" for name in NAMES]  # once in this process
    compute = make_compute_metrics(problem_type, names)
    for _ in range(2):
        result = compute(EvalPrediction(np.eye(3), np.array(labels)))
    assert not any("rain" in name for name in result) and any("siren" in name for name in result)
    assert [record.getMessage() for record in caplog.records] == [
        f"Not measured, because no clip to evaluate on has them: rain of {problem_type}."
    ]


def test_a_class_that_all_clips_have_is_left_out_by_name_and_such_classes_alone_are_refused(caplog):
    """Whatever the scores, its average precision is 1."""
    rng = np.random.default_rng(0)
    names, logits = ["everywhere", "sometimes", "nowhere"], rng.normal(size=(8, 3))
    labels = np.stack([np.ones(8), np.arange(8) % 2, np.zeros(8)], axis=1)
    compute = make_compute_metrics("multi_label_classification", names)
    result = compute(EvalPrediction(logits, labels))
    expected = average_precision_score(labels[:, 1], logits[:, 1])
    assert result["mean_average_precision"] == result["average_precision_sometimes"] == pytest.approx(expected)
    assert not {"average_precision_everywhere", "average_precision_nowhere"} & result.keys()
    assert {record.getMessage() for record in caplog.records} == {
        "Not measured, because all clips to evaluate on have them: everywhere.",
        "Not measured, because no clip to evaluate on has them: nowhere.",
    }
    with pytest.raises(ValueError, match="None of the 8 clips differs from another in its classes"):
        compute(EvalPrediction(logits, np.ones((8, 3))))


@pytest.mark.parametrize("problem_type", PROBLEMS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_no_metrics(problem_type: str, value: float):
    """The class number of NaN logits would be 0."""
    target = np.eye(3)[[0, 1, 2, 0]] if problem_type.startswith("multi") else np.array([0, 1, 2, 0])
    predictions = np.zeros((4, 1 if problem_type == "regression" else 3))
    predictions[2, 0] = value
    with pytest.raises(ValueError, match="predictions for 1 of 4 clips are not finite"):
        figures(problem_type, predictions, target)


@pytest.mark.parametrize("problem_type", PROBLEMS)
def test_the_best_metric_is_one_of_the_figures_and_improves_its_way(problem_type: str):
    labels = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    target = labels if problem_type.startswith("multi") else labels.argmax(axis=1)
    right, wrong = (labels, -labels) if problem_type != "regression" else (target[:, None], -target[:, None])
    name, greater_is_better = best_metric(problem_type)
    better, worse = (figures(problem_type, values, target)[name] for values in (right, wrong))
    assert (better > worse) == greater_is_better and better != worse


def test_an_unknown_problem_is_refused():
    for function in (best_metric, lambda kind: make_compute_metrics(kind, NAMES)):
        with pytest.raises(ValueError, match="'multilabel': there are single_label_classification, multi_label"):
            function("multilabel")


@pytest.mark.parametrize("problem_type", PROBLEMS)
def test_a_trainer_logs_them_and_reloads_the_best_model(problem_type: str, tmp_path: Path):
    waves, numbers = tones(12)
    labels = {
        "single_label_classification": numbers,
        "multi_label_classification": np.eye(3, dtype=np.float32)[numbers],
        "regression": numbers.astype(np.float32),
    }[problem_type]
    inputs = EXTRACTOR(waves, sampling_rate=16_000, return_tensors="np")
    rows = [{name: values[row] for name, values in inputs.items()} | {"labels": labels[row]} for row in range(12)]
    set_seed(0)
    config = CONFIG.__class__(
        **CONFIG.to_dict() | {"problem_type": problem_type, "num_labels": 1 if problem_type == "regression" else 3}
    )
    name, greater_is_better = best_metric(problem_type)
    args = TrainingArguments(
        str(tmp_path), max_steps=6, learning_rate=3e-3, per_device_train_batch_size=6, use_cpu=True, disable_tqdm=True,
        eval_strategy="steps", eval_steps=2, save_strategy="best", logging_strategy="no", report_to="none",
        load_best_model_at_end=True, metric_for_best_model=name, greater_is_better=greater_is_better,
    )  # fmt: skip
    trainer = Trainer(
        AudioMAEForAudioClassification(config), args, train_dataset=rows, eval_dataset=rows,
        compute_metrics=make_compute_metrics(problem_type, NAMES),
    )  # fmt: skip
    trainer.train()
    seen = [entry[f"eval_{name}"] for entry in trainer.state.log_history if f"eval_{name}" in entry]
    assert len(seen) == 3 and trainer.state.best_metric == (max if greater_is_better else min)(seen)
    assert trainer.evaluate()[f"eval_{name}"] == pytest.approx(trainer.state.best_metric, abs=1e-6)


def test_the_write_confusion_matrix_shows_who_is_taken_for_whom(tmp_path: Path):
    """All of one class taken for another: one dark cell a row, on the diagonal or beside it."""
    references = np.repeat(np.arange(3), 5)
    darkest = []
    for predictions in (references, (references + 1) % 3):
        write_confusion_matrix(tmp_path / "confusion.png", references, predictions, NAMES)
        picture = imread(tmp_path / "confusion.png")[:, :, :3]
        dark = np.abs(picture - DARKEST).max(axis=2) < 0.05
        rows, columns = np.nonzero(dark[: int(0.6 * len(dark))])
        darkest.append(np.corrcoef(rows, columns)[0, 1])
    assert darkest[0] > 0.8 and darkest[1] < 0
