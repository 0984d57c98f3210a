"""What inherited arguments do in the three kinds of training, seen in what the trainers do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from all_encoders import slow_but
from datasets import Dataset
from toy_sounds import CONFIG, EXTRACTOR, PLAIN, log_mels, tones
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from uamix_hf import (
    AudioMAEConfig,
    AudioMAEForPreTraining,
    AudioMAEModel,
    UaMixForContrastiveTuning,
    UaMixTrainingArguments,
)
from uamix_hf.fine_tuning import FineTuningArguments, FineTuningTrainer, make_classifier, with_labels
from uamix_hf.pretraining import PretrainingArguments, PretrainingTrainer
from uamix_hf.tuning import StageTrainer

HEADS = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 6}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
           "decoder_intermediate_size": 48}  # fmt: skip
KINDS = ("tune", "finetune", "pretrain")
EVALUATING = ("finetune", "pretrain")
WAVES, LABELS = tones(18)


@pytest.fixture(scope="module")
def clips() -> Dataset:
    return log_mels(WAVES)


@pytest.fixture
def make(clips: Dataset, tmp_path: Path) -> Callable[..., Any]:
    """`make(kind, values=LABELS, problem="single_label_classification", callbacks=(), **arguments)`: 12 clips to train
    on and 6 to evaluate."""

    def make(
        kind: str, values: np.ndarray = LABELS, problem: str = "single_label_classification",
        callbacks: tuple = (), **given: Any,
    ) -> Any:  # fmt: skip
        fixed = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "max_steps": 3,
                 "per_device_train_batch_size": 4, "save_strategy": "no", "warmup_steps": 0, **given}  # fmt: skip
        set_seed(0)
        train, held_out = clips.select(range(12)), clips.select(range(12, 18))
        if kind == "tune":
            model = UaMixForContrastiveTuning.from_encoder(AudioMAEModel(CONFIG), **HEADS)
            args = UaMixTrainingArguments(**{"recipe": "plastic", **fixed})
            return StageTrainer(model, args, train, EXTRACTOR, "tune", callbacks)
        if kind == "pretrain":
            model = AudioMAEForPreTraining(AudioMAEConfig(**CONFIG.to_dict() | DECODER))
            return PretrainingTrainer(model, PretrainingArguments(**fixed), train, EXTRACTOR, held_out)
        labelled, outputs = with_labels(clips, values), 1 if problem == "regression" else 3
        names = dict(enumerate("abc"[:outputs]))
        model = make_classifier(AudioMAEModel(CONFIG), outputs, problem_type=problem, id2label=names)
        train, held_out = labelled.select(range(12)), labelled.select(range(12, 18))
        fixed = {"head_init": "random", **fixed}  # nothing is evaluated before the first step unless asked for
        return FineTuningTrainer(model, FineTuningArguments(**fixed), train, EXTRACTOR, held_out, callbacks)

    return make


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# --- the optimiser


@pytest.mark.parametrize("kind", slow_but(["tune"], KINDS))
def test_the_optimiser_is_what_was_asked_for(make: Callable, kind: str) -> None:
    seen = make(
        kind, optim="adamw_torch", adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=1e-3, weight_decay=0.07,
        learning_rate=0.02, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 0.015},
        warmup_steps=2, max_steps=9, logging_steps=1,
    )  # fmt: skip
    seen.train()
    groups = seen.optimizer.param_groups
    assert type(seen.optimizer.optimizer) is torch.optim.AdamW and seen.state.global_step == 9
    assert all(group["betas"] == (0.5, 0.6) and group["eps"] == 1e-3 for group in groups)
    assert 0.07 in {group["weight_decay"] for group in groups}
    assert max(group["initial_lr"] for group in groups) == 0.02
    factors = seen.lr_scheduler.lr_lambdas[0]
    assert [factors(step) for step in (0, 1, 2, 9)] == pytest.approx([0, 0.5, 1, 0.75])  # of the peak
    other = make(kind, optim="rmsprop", optim_args="momentum=0.9,alpha=0.3")
    other.create_optimizer()
    assert type(other.optimizer) is torch.optim.RMSprop
    assert all(group["momentum"] == 0.9 and group["alpha"] == 0.3 for group in other.optimizer.param_groups)


class Gradients(TrainerCallback):
    """Keeps the gradients of each step as one vector, as they come to the optimiser."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        parts = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
        self.seen.append(torch.cat(parts).clone())


@pytest.mark.parametrize("kind", slow_but(["finetune"], KINDS))
def test_gradients_are_clipped(make: Callable, kind: str) -> None:
    found = []
    for norm in (0.0, 1e-3):
        trainer, watch = make(kind, max_steps=1, max_grad_norm=norm), Gradients()
        trainer.add_callback(watch)
        trainer.train()
        found.append(watch.seen[0])
    free, clipped = found
    assert free.norm() > 0.01 and clipped.norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(clipped, free * (1e-3 / free.norm()), rtol=1e-3, atol=1e-9)


def test_accumulated_gradients_are_those_of_the_whole_batch(make: Callable) -> None:
    """Without augmentation; pretraining, where masks are drawn, is looked at by test_transformers_use.py."""
    found = []
    for size, count in ((12, 1), (4, 3)):
        plain = PLAIN | {"roll": False, "gain_alpha": 0.0, "max_grad_norm": 0.0, "max_steps": 1}
        trainer = make("finetune", per_device_train_batch_size=size, gradient_accumulation_steps=count, **plain)
        watch = Gradients()
        trainer.add_callback(watch)
        trainer.train()
        found += watch.seen
    assert len(found) == 2 and found[0].norm() > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_labels_are_smoothed_in_training_alone(make: Callable, share: float) -> None:
    trainer = make("finetune", label_smoothing_factor=share, learning_rate=0.0, max_steps=1, logging_steps=1,
                   per_device_train_batch_size=12, roll=False, gain_alpha=0.0, **PLAIN)  # fmt: skip
    trainer.model.classifier.weight.data.normal_(std=3.0)
    logits = trainer.predict(trainer.train_dataset).predictions
    trainer.train()
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = (1 - share) * np.eye(3)[LABELS[:12]] + share / 3
    assert logged(trainer, "loss") == [pytest.approx(-(wanted * log_shares).sum(axis=1).mean(), rel=1e-4)]
    plain = -log_shares[np.arange(12), LABELS[:12]].mean()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(plain, rel=1e-4)


def test_there_is_nothing_to_smooth_without_one_class_a_clip(make: Callable) -> None:
    for problem, values in (("regression", LABELS.astype(np.float32)),
                            ("multi_label_classification", np.eye(3, dtype=np.float32)[LABELS])):  # fmt: skip
        with pytest.raises(ValueError, match=f"label_smoothing_factor=0.1: labels of {problem} cannot be smoothed"):
            make("finetune", values, problem, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="outside"):
        make("finetune", label_smoothing_factor=1.0)


# --- how the steps are computed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_compiled_and_learns_the_same(make: Callable, kind: str) -> None:
    plain = make(kind, logging_steps=1, torch_compile=False)
    plain.train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = make(kind, logging_steps=1, torch_compile=True, torch_compile_backend="eager")
    compiled.train()
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 1
    assert logged(compiled, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-3)


@pytest.mark.parametrize("kind", slow_but(["tune"], KINDS))
@pytest.mark.parametrize(
    "given, calls",
    [
        ({}, [1, 1]),
        ({"activation_checkpointing": True}, [2, 2]),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}, [2, 2]),
        ({"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}}, [1, 2]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_activations_are_computed_again(make: Callable, kind: str, given: dict[str, Any], calls: list[int]) -> None:
    """How often a step calls each of the encoder's two blocks: once more where the backward pass needs it again."""
    trainer = make(kind, max_steps=1, **given, **({"eval_strategy": "no"} if kind == "finetune" else {}))
    encoder, seen = trainer.model.encoder if kind == "tune" else trainer.model.audio_mae, []
    for number, layer in enumerate(encoder.layers):
        layer.layernorm_before.register_forward_hook(lambda *_, number=number: seen.append(number))
    trainer.train()
    assert sorted(np.bincount(seen).tolist()) == calls


@pytest.mark.parametrize("kind", slow_but(["tune"], KINDS))
def test_bfloat16_is_computed_in(make: Callable, kind: str) -> None:
    trainer, seen = make(kind, bf16=True, max_steps=1), set()
    encoder = trainer.model.encoder if kind == "tune" else trainer.model.audio_mae
    encoder.layers[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    trainer.train()
    assert torch.bfloat16 in seen and next(trainer.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("kind", slow_but(["pretrain"], KINDS))
def test_what_surrounds_the_steps_is_done(make: Callable, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda *_: emptied.append(trainer.state.global_step))
    trainer = make(kind, full_determinism=True, skip_memory_metrics=False, torch_empty_cache_steps=2, max_steps=5,
                   logging_steps=2, logging_first_step=True)  # fmt: skip
    try:
        trainer.train()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert emptied == [0, 2, 4]
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 4]
    assert logged(trainer, "train_mem_cpu_alloc_delta")
    quiet = make(kind, logging_strategy="no", max_steps=1)
    quiet.train()
    assert logged(quiet, "loss") == []


# --- batches


@pytest.mark.parametrize("kind", slow_but(["tune"], KINDS))
def test_the_order_goes_by_the_seed_of_the_data(make: Callable, kind: str) -> None:
    def order(**seeds: int) -> list[int]:
        return list(make(kind, **seeds)._get_train_sampler())

    assert order(seed=1) != order(seed=2) and order(seed=1) == order(seed=2, data_seed=1)


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_a_last_batch_is_dropped_where_that_is_asked_for(make: Callable, kind: str) -> None:
    sizes = [
        [len(batch["input_values"]) for batch in
         make(kind, per_device_train_batch_size=5, dataloader_drop_last=drop).get_train_dataloader()]
        for drop in (False, True)
    ]  # fmt: skip
    assert sizes == [[5, 5, 2], [5, 5]]
    if kind == "finetune":
        with pytest.raises(ValueError, match="dataloader_drop_last: 12 clips do not fill one batch of 1 x 13"):
            make(kind, per_device_train_batch_size=13, dataloader_drop_last=True)


def test_tuning_does_not_come_to_a_batch_of_one_clip(make: Callable) -> None:
    """The flag is named before the first step, not after an epoch."""
    trainer = make("tune", per_device_train_batch_size=11, dataloader_drop_last=False)
    with pytest.raises(ValueError, match=r"of 12 clips an epoch in batches of 11.*Leave --dataloader_drop_last"):
        trainer.train()
    assert trainer.state.global_step == 0
    make("tune", per_device_train_batch_size=11).train()
    make("tune", per_device_train_batch_size=5, dataloader_drop_last=False).train()
    with pytest.raises(ValueError, match="per_device_train_batch_size=1: a batch of one clip"):
        make("tune", per_device_train_batch_size=1)


@pytest.mark.parametrize("kind", slow_but(["finetune"], KINDS))
def test_loaders_are_made_as_asked_for(make: Callable, kind: str) -> None:
    """Of stored clips and, in pretraining, of a stream."""
    given = {
        "dataloader_num_workers": 2,
        "dataloader_prefetch_factor": 5,
        "dataloader_multiprocessing_context": "spawn",
    }
    trainers = [make(kind, **given)]
    if kind == "pretrain":

        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self) -> Any:
                return iter(())

        streaming = make(kind, **given)
        streaming.train_dataset = Stream()
        trainers.append(streaming)
    for trainer in trainers:
        loader = trainer.get_train_dataloader()
        assert (loader.num_workers, loader.prefetch_factor) == (2, 5)
        assert loader.multiprocessing_context.get_start_method() == "spawn"


# --- evaluation and checkpoints


@pytest.mark.parametrize("kind", EVALUATING)
def test_evaluation_comes_when_it_is_asked_for(make: Callable, kind: str) -> None:
    """12 clips in batches of 4: epochs of three steps."""
    cases = [
        ({"eval_strategy": "no"}, []),
        ({"eval_strategy": "epoch"}, [3, 6]),
        ({"eval_strategy": "epoch", "eval_delay": 1.5}, [6]),
        ({"eval_strategy": "steps", "eval_steps": 2}, [2, 4, 6]),
        ({"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}, [0, 3, 6]),
    ]
    for given, expected in cases:
        trainer = make(kind, max_steps=6, **given)
        trainer.train()
        assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == expected


@pytest.mark.parametrize("kind", slow_but(["tune"], KINDS))
def test_checkpoints_are_saved_as_asked_for(make: Callable, kind: str, tmp_path: Path) -> None:
    def saved(name: str, **given: Any) -> dict[str, bool]:
        """Names of the checkpoints, and whether each can be gone on from."""
        make(kind, output_dir=str(tmp_path / name), max_steps=6, **given).train()
        folders = sorted((tmp_path / name).glob("checkpoint-*"))
        return {folder.name: (folder / "optimizer.pt").exists() for folder in folders}

    limits = {"save_total_limit": 9} | ({"eval_strategy": "no"} if kind == "finetune" else {})
    assert saved("steps", save_strategy="steps", save_steps=4, **limits) == {"checkpoint-4": True, "checkpoint-6": True}
    assert saved("epochs", save_strategy="epoch", save_only_model=True, **limits) == {
        "checkpoint-3": False, "checkpoint-6": False
    }  # fmt: skip
    one = limits | {"save_total_limit": 1}
    assert saved("last", save_strategy="steps", save_steps=2, **one) == {"checkpoint-6": True}


# Metrics of each problem, as a row a step; what is best by each of them is elsewhere.
PROBLEMS = {
    "regression": (LABELS.astype(np.float32), ["mse", "mae", "eval_mse", "loss", "pearson"]),
    "single_label_classification": (LABELS, ["accuracy", "balanced_accuracy", "accuracy_b", "eval_loss"]),
    "multi_label_classification": (
        np.eye(3, dtype=np.float32)[LABELS],
        ["mean_average_precision", "micro_average_precision", "average_precision_a"],
    ),
}


@pytest.mark.parametrize(
    "problem, metric", [(problem, name) for problem, (_, names) in PROBLEMS.items() for name in names]
)
def test_the_best_model_is_the_best_by_each_metric(
    make: Callable, problem: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step to step a metric goes up and down by what it is told; the kept checkpoint is of its best step, and
    patience ends where that is no longer near."""
    trainer = make(
        "finetune", PROBLEMS[problem][0], problem, max_steps=8, save_strategy="steps", save_steps=1, save_total_limit=9,
        metric_for_best_model=metric, callbacks=(EarlyStoppingCallback(early_stopping_patience=3),),
    )  # fmt: skip
    name = metric.removeprefix("eval_")
    less = name in ("mse", "mae", "loss")
    told = [0.5, 0.6, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3]
    values = iter([1 - value if less else value for value in told])
    evaluation_loop = type(trainer).evaluation_loop

    def tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = evaluation_loop(self, *args, **kwargs)
        output.metrics[f"eval_{name}"] = next(values)
        return output

    monkeypatch.setattr(type(trainer), "evaluation_loop", tell)
    trainer.train()
    assert trainer.state.best_metric == pytest.approx(1 - 0.9 if less else 0.9)
    assert Path(str(trainer.state.best_model_checkpoint)).name == "checkpoint-3"
    assert trainer.state.global_step == 6  # three steps without a better one


@pytest.mark.parametrize("kind", EVALUATING)
def test_a_metric_that_is_not_measured_is_an_error_that_names_those_that_are(make: Callable, kind: str) -> None:
    known = {"finetune": "loss, accuracy, balanced_accuracy, accuracy_a, accuracy_b, accuracy_c", "pretrain": "loss"}
    for wrong in ("f1", "eval_mse", "loss_contrastive"):
        with pytest.raises(
            ValueError, match=f"metric_for_best_model='{wrong}' is not measured: there are {known[kind]}\\."
        ):
            make(kind, metric_for_best_model=wrong, eval_strategy="epoch")


def test_what_the_rows_cannot_measure_chooses_no_model(make: Callable) -> None:
    alike = np.where(np.arange(18) < 12, LABELS, 1).astype(np.float32)
    with pytest.raises(ValueError, match="'pearson' is not measured: there are loss, mse, mae"):
        make("finetune", alike, "regression", metric_for_best_model="pearson")
    everywhere = np.eye(3, dtype=np.float32)[LABELS]
    everywhere[12:, 2] = 1
    with pytest.raises(ValueError, match="'average_precision_c' is not measured"):
        make("finetune", everywhere, "multi_label_classification", metric_for_best_model="average_precision_c")
    everywhere[12:] = 1
    with pytest.raises(ValueError, match="None of the 6 clips differs from another in its classes"):
        make("finetune", everywhere, "multi_label_classification")


def test_without_rows_to_evaluate_nothing_is_asked_of_them(make: Callable, clips: Dataset, tmp_path: Path) -> None:
    def trainer(eval_dataset: Dataset | None = None, **given: Any) -> FineTuningTrainer:
        args = FineTuningArguments(str(tmp_path / "none"), use_cpu=True, disable_tqdm=True, max_steps=1, **given)
        model = make_classifier(AudioMAEModel(CONFIG), 3, problem_type="single_label_classification")
        return FineTuningTrainer(model, args, with_labels(clips, LABELS), EXTRACTOR, eval_dataset)

    for given in ({"metric_for_best_model": "loss"}, {"greater_is_better": False, "metric_for_best_model": "loss"},
                  {"eval_on_start": True}, {"eval_delay": 3}, {"save_strategy": "best"}):  # fmt: skip
        with pytest.raises(ValueError, match=f"{next(iter(given))}.*: nothing is evaluated. Give rows to evaluate on"):
            trainer(**given)
    without = trainer(save_strategy="steps", save_steps=1)
    without.train()
    assert (tmp_path / "none" / "checkpoint-1").is_dir() and logged(without, "eval_loss") == []
    with pytest.raises(ValueError, match="There are no rows to evaluate on"):
        trainer(with_labels(clips, LABELS).select([]))


@pytest.mark.slow
def test_callbacks_go_on_with_their_state(make: Callable, tmp_path: Path) -> None:
    """Patience that was used up before a checkpoint is gone when the run goes on from it, or not, as asked for."""
    given = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "learning_rate": 0.0}
    make("finetune", callbacks=(EarlyStoppingCallback(early_stopping_patience=5),), max_steps=2, **given).train()
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"] == 1
    steps = []
    for restore in (True, False):
        again = make("finetune", callbacks=(EarlyStoppingCallback(early_stopping_patience=5),), max_steps=9,
                     restore_callback_states_from_checkpoint=restore, **given)  # fmt: skip
        again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
        steps.append(again.state.global_step)
    assert steps == [6, 7]


# --- regression


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", [False, True])
def test_a_regression_speaks_the_columns_unit_whenever_training_ends(make: Callable, stopped: bool) -> None:
    values = 1000 + 50 * LABELS.astype(np.float32)
    trainer = make("finetune", values, "regression", callbacks=(Stop(),) if stopped else (), eval_strategy="steps",
                   eval_steps=1)  # fmt: skip
    before = trainer.evaluate()
    assert before["eval_mse"] == pytest.approx(50**2 * before["eval_loss"], rel=0.5)
    for _ in range(2):
        if stopped:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        else:
            trainer.train()
        with torch.no_grad():
            inputs = EXTRACTOR(WAVES[12], sampling_rate=16_000, return_tensors="pt")
            own = trainer.model.eval()(**inputs).logits.item()
        output = trainer.predict(trainer.eval_dataset)
        assert own == pytest.approx(output.predictions[0, 0], abs=1) and 900 < own < 1200
        # The loss is of standardised numbers, then as before.
        assert output.metrics["test_mse"] == pytest.approx(output.metrics["test_loss"] * trainer.scale**2, rel=1e-3)
        if not stopped:
            during = trainer.state.log_history[-2]
            assert (during["step"], during["eval_loss"]) == (3, pytest.approx(output.metrics["test_loss"], rel=1e-3))
