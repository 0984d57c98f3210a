"""A run that starts as a classifier of frozen embeddings: its first weights, what is kept of it, and what is said."""

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, log_mels, tones
from transformers import AutoModelForAudioClassification, TrainerCallback, set_seed

from uamix_hf import AudioMAEModel
from uamix_hf.embedding.features import embed_features
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FineTuningTrainer,
    copy_trained_head,
    frozen_start,
    make_classifier,
    predict_logits,
    with_labels,
)

WAVES, LABELS = tones(36)
TRAIN, TEST = np.arange(24), np.arange(24, 36)
STEPS = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2, "save_total_limit": 9}


@pytest.fixture(scope="module")
def clips():
    return log_mels(WAVES)


def classifier(problem: str = "single_label_classification", outputs: int = 3, names: str = "abc") -> Any:
    set_seed(0)
    names_of = dict(enumerate(names[:outputs]))
    return make_classifier(
        AudioMAEModel(CONFIG), outputs, problem_type=problem, id2label=names_of,
        label2id={name: number for number, name in names_of.items()},
    )  # fmt: skip


@pytest.fixture
def trainer(clips, tmp_path: Path):
    """`trainer(model=None, values=LABELS, evaluates=True, callbacks=(), **arguments)`."""

    def trainer(model=None, values=LABELS, evaluates=True, callbacks=(), **arguments) -> FineTuningTrainer:
        fixed = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "report_to": "none",
                 "per_device_train_batch_size": 8, "max_steps": 1, "save_strategy": "no", **PLAIN}  # fmt: skip
        labelled = with_labels(clips, values)
        return FineTuningTrainer(
            classifier() if model is None else model,
            FineTuningArguments(**{**fixed, **arguments}),
            labelled.select(TRAIN),
            EXTRACTOR,
            labelled.select(TEST) if evaluates else None,
            callbacks,
        )

    return trainer


class Spoil(TrainerCallback):
    """After each step, weights that say one class of everything."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            model.classifier.weight.zero_()


def frozen_regression(clips, c: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Decision function of the test rows, by scikit-learn, from the embeddings of the untrained encoder."""
    set_seed(0)
    vectors = embed_features(AudioMAEModel(CONFIG), EXTRACTOR, clips).astype(np.float64)
    vectors -= vectors[TRAIN].mean(axis=0)
    vectors /= np.sqrt(vectors[TRAIN].var(axis=0).sum())
    return (
        LogisticRegression(C=c, max_iter=10_000)
        .fit(vectors[TRAIN], LABELS[TRAIN], weights)
        .decision_function(vectors[TEST])
    )


# --- the first weights


def test_training_starts_from_the_regression_of_frozen_embeddings(trainer, clips) -> None:
    made = trainer(learning_rate=0.0)
    assert made.args.head_init == "logistic" and made.settings()["logistic_c"] == made.args.logistic_c
    made.train()
    expected = frozen_regression(clips, made.args.logistic_c)
    np.testing.assert_allclose(predict_logits(made.model, EXTRACTOR, clips, TEST), expected, atol=2e-3)
    assert made.state.log_history[0]["step"] == 0
    assert made.state.log_history[0]["eval_accuracy"] == (expected.argmax(axis=1) == LABELS[TEST]).mean()


def test_balanced_classes_weigh_the_clips_of_the_regression(trainer, clips) -> None:
    values = np.concatenate([np.repeat(np.arange(3), (14, 7, 3)), LABELS[TEST]])
    made = trainer(values=values, learning_rate=0.0, class_balanced=True)
    made.train()
    set_seed(0)
    vectors = embed_features(AudioMAEModel(CONFIG), EXTRACTOR, clips).astype(np.float64)
    vectors = (vectors - vectors[TRAIN].mean(axis=0)) / np.sqrt(vectors[TRAIN].var(axis=0).sum())
    peer = LogisticRegression(C=made.args.logistic_c, max_iter=10_000, class_weight="balanced")
    expected = peer.fit(vectors[TRAIN], values[TRAIN]).decision_function(vectors[TEST])
    np.testing.assert_allclose(predict_logits(made.model, EXTRACTOR, clips, TEST), expected, atol=2e-3)


def test_a_random_layer_and_one_of_numbers_stay_as_they_were_made(trainer) -> None:
    for made in (
        trainer(head_init="random", learning_rate=0.0),
        trainer(classifier("regression", 1), LABELS.astype(np.float32), learning_rate=0.0),
    ):
        before = made.model.classifier.weight.detach().clone()
        made.train()
        torch.testing.assert_close(made.model.classifier.weight, before)
        assert made.args.head_init == "random" and "logistic_c" not in made.settings()
        assert made.frozen_comparison() is None


def test_a_layer_that_another_trainer_has_trained_meanwhile_is_kept(trainer) -> None:
    model = classifier()
    first, second = (trainer(model, evaluates=False, learning_rate=rate) for rate in (0.0, 1e-2))
    second.train()
    trained = model.classifier.weight.detach().clone()
    first.train()
    assert torch.equal(model.classifier.weight, trained)


def test_the_layer_of_a_trained_model_is_kept_unless_asked_otherwise(trainer, tmp_path: Path, caplog) -> None:
    first = trainer(evaluates=False, max_steps=3, learning_rate=1e-3)
    first.train()
    head = first.model.classifier.weight.detach().clone()
    first.train()  # goes on
    again = first.model.classifier.weight.detach().clone()
    assert not torch.equal(head, again) and torch.allclose(head, again, atol=0.1)
    first.save_model(str(tmp_path / "saved"))
    for model in (first.model, AutoModelForAudioClassification.from_pretrained(tmp_path / "saved")):
        made = trainer(copy.deepcopy(model), learning_rate=0.0)
        assert made.args.head_init == "keep"
        made.train()
        assert torch.equal(made.model.classifier.weight, again)
    replaced = trainer(copy.deepcopy(first.model), learning_rate=0.0, head_init="centroid")
    with caplog.at_level(logging.WARNING, logger="uamix_hf"):
        replaced.train()
    assert not torch.allclose(replaced.model.classifier.weight, again, atol=1e-3)
    assert "head_init=centroid replaces the linear layer" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"head_init": "zero"}, "head_init='zero': there are logistic, centroid, random, keep"),
        ({"logistic_c": 0.0}, "logistic_c=0.0 is not above 0"),
        ({"logistic_c": 2.0, "head_init": "centroid"}, "logistic_c=2.0: it goes with head_init=logistic"),
        ({"head_init": "keep"}, "new linear layer"),
    ],
)
def test_what_cannot_be_is_refused(trainer, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(**options)


def test_numbers_have_no_classifier_and_a_trained_layer_is_not_made_random(trainer) -> None:
    with pytest.raises(ValueError, match="head_init=logistic: a regression has no classes"):
        trainer(classifier("regression", 1), LABELS.astype(np.float32), head_init="logistic")
    model = classifier()
    model.has_new_head = False
    with pytest.raises(ValueError, match="head_init=random: the model comes with a linear layer"):
        trainer(model, head_init="random")


# --- what is kept, and said


def test_the_frozen_classifier_is_kept_where_training_makes_it_worse(trainer, tmp_path: Path, caplog) -> None:
    made = trainer(max_steps=4, learning_rate=0.0, callbacks=[Spoil()], **STEPS)
    with caplog.at_level(logging.WARNING, logger="uamix_hf"):
        made.train()
    comparison = made.frozen_comparison()
    assert comparison.metric == "accuracy" and comparison.frozen > 0.8 and comparison.trained == pytest.approx(1 / 3)
    assert made.state.best_global_step == 0 and made.state.best_model_checkpoint.endswith("checkpoint-0")
    assert made.evaluate()["eval_accuracy"] == comparison.frozen
    kept = load_file(tmp_path / "run" / "checkpoint-0" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in made.model.state_dict().items())
    assert f"accuracy {comparison.frozen:.4f} before training (frozen embeddings), 0.3333 after" in caplog.text
    assert "The model of step 0 is kept" in caplog.text


def test_without_choosing_the_best_a_worse_model_is_named(trainer, caplog) -> None:
    made = trainer(max_steps=2, callbacks=[Spoil()], eval_strategy="steps", eval_steps=2)
    with caplog.at_level(logging.WARNING, logger="uamix_hf"):
        made.train()
    assert "The trained weights are kept all the same" in caplog.text
    assert made.evaluate()["eval_accuracy"] == pytest.approx(1 / 3)


def test_a_model_that_training_makes_better_is_kept_without_a_warning(trainer, clips, caplog) -> None:
    made = trainer(max_steps=40, learning_rate=2e-3, metric_for_best_model="loss", logistic_c=0.01,
                   **STEPS | {"save_steps": 20, "eval_steps": 20})  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="uamix_hf"):
        made.train()
    comparison = made.frozen_comparison()
    assert comparison.metric == "loss" and comparison.trained < comparison.frozen and "frozen" not in caplog.text
    assert made.state.best_global_step > 0 and made.evaluate()["eval_loss"] == comparison.trained


def test_a_resumed_run_does_not_start_again(trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first checkpoint, of step 0, and from a later one: the same weights, and the same best checkpoint."""
    options = STEPS | {"max_steps": 4, "callbacks": [Spoil()]}
    whole = trainer(**options)
    whole.train()
    monkeypatch.setattr(frozen_start, "linear_head", None)  # not called
    for step in (0, 2):
        resumed = trainer(**options)
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert resumed.state.best_global_step == 0 and resumed.state.best_model_checkpoint.endswith("checkpoint-0")
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert resumed.frozen_comparison() == whole.frozen_comparison()


# --- a classifier that is trained further


def test_the_layer_of_a_folder_is_copied_by_the_names_of_its_classes(trainer, clips, tmp_path: Path, caplog) -> None:
    first = trainer(evaluates=False)
    first.train()
    first.save_model(str(tmp_path / "saved"))
    model = classifier(names="cab")
    model.base_model.load_state_dict(first.model.base_model.state_dict())
    assert copy_trained_head(model, str(tmp_path / "saved")) and not model.has_new_head
    expected = predict_logits(first.model, EXTRACTOR, clips)[:, [2, 0, 1]]
    np.testing.assert_array_equal(predict_logits(model, EXTRACTOR, clips), expected)
    for other, reason in (
        (classifier(names="abd"), "3 other classes"),
        (classifier("multi_label_classification"), "single_label_classification"),
    ):
        before = other.classifier.weight.detach().clone()
        with caplog.at_level(logging.WARNING, logger="uamix_hf"):
            assert not copy_trained_head(other, str(tmp_path / "saved"))
        assert other.has_new_head and torch.equal(other.classifier.weight, before) and reason in caplog.text


def test_adapters_in_the_encoder_start_from_its_frozen_embeddings_too(trainer, clips) -> None:
    peft = pytest.importorskip("peft")
    model = classifier()
    model.base_model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=True))
    made = trainer(model, learning_rate=0.0)
    made.train()
    expected = frozen_regression(clips, made.args.logistic_c)
    np.testing.assert_allclose(predict_logits(model, EXTRACTOR, clips, TEST), expected, atol=2e-3)
