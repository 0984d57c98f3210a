"""Each argument that is inherited from transformers has an effect, shown by a test, or is refused by name."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from uamix_hf import UaMixTrainingArguments
from uamix_hf.fine_tuning import FineTuningArguments
from uamix_hf.pretraining import PretrainingArguments

TESTS = Path(__file__).parents[1]
JOBS = {"tune": UaMixTrainingArguments, "finetune": FineTuningArguments, "pretrain": PretrainingArguments}
EFFECTS = "training/test_training_arguments_work.py"
STOPPED, OTHER_RUNS = "faults/test_stopped_runs.py", "faults/test_other_runs.py"
# Read by transformers and accelerate in code that nothing here replaces, with hardware, packages or services that a
# test has not, or of several machines.
PASSED_ON = (
    "tf32", "fp16", "log_on_each_node", "save_on_each_node", "log_level", "log_level_replica", "ddp_bucket_cap_mb",
    "ddp_static_graph", "ddp_timeout", "ddp_broadcast_buffers", "ddp_find_unused_parameters", "deepspeed", "fsdp",
    "fsdp_config", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "dataloader_pin_memory", "torch_compile_mode", "local_rank",
)  # fmt: skip

# What works, and the test that shows it.
WORKS: dict[str, str] = {
    **dict.fromkeys(PASSED_ON, "passed on"),
    "output_dir": "examples/test_tune.py::test_resuming_equals_never_having_stopped",
    "per_device_train_batch_size": "training/test_training_arguments.py::test_batches_of_no_clip_are_refused",
    "per_device_eval_batch_size": "training/test_training_arguments.py::test_batches_of_no_clip_are_refused",
    "num_train_epochs": "fine_tuning/test_pseudo_labels.py::test_nothing_is_saved_and_every_clip_is_seen_in_an_epoch",
    "max_steps": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "learning_rate": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "lr_scheduler_type": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "lr_scheduler_kwargs": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "warmup_steps": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "optim": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "optim_args": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "weight_decay": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "adam_beta1": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "adam_beta2": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "adam_epsilon": f"{EFFECTS}::test_the_optimiser_is_what_was_asked_for",
    "gradient_accumulation_steps": f"{EFFECTS}::test_accumulated_gradients_are_those_of_the_whole_batch",
    "max_grad_norm": f"{EFFECTS}::test_gradients_are_clipped",
    "label_smoothing_factor": f"{EFFECTS}::test_labels_are_smoothed_in_training_alone",
    "bf16": f"{EFFECTS}::test_bfloat16_is_computed_in",
    "activation_checkpointing": f"{EFFECTS}::test_activations_are_computed_again",
    "activation_checkpointing_kwargs": f"{EFFECTS}::test_activations_are_computed_again",
    "gradient_checkpointing": f"{EFFECTS}::test_activations_are_computed_again",
    "gradient_checkpointing_kwargs": f"{EFFECTS}::test_activations_are_computed_again",
    "torch_compile": f"{EFFECTS}::test_the_model_is_compiled_and_learns_the_same",
    "torch_compile_backend": f"{EFFECTS}::test_the_model_is_compiled_and_learns_the_same",
    "torch_empty_cache_steps": f"{EFFECTS}::test_what_surrounds_the_steps_is_done",
    "skip_memory_metrics": f"{EFFECTS}::test_what_surrounds_the_steps_is_done",
    "full_determinism": f"{EFFECTS}::test_what_surrounds_the_steps_is_done",
    "logging_strategy": f"{EFFECTS}::test_what_surrounds_the_steps_is_done",
    "logging_steps": f"{EFFECTS}::test_what_surrounds_the_steps_is_done",
    "logging_first_step": f"{EFFECTS}::test_what_surrounds_the_steps_is_done",
    "disable_tqdm": f"{EFFECTS}::test_what_surrounds_the_steps_is_done",
    "report_to": "pretraining/test_pretraining_reconstructions.py::test_tensorboards_file_holds_the_plots",
    "eval_strategy": f"{EFFECTS}::test_evaluation_comes_when_it_is_asked_for",
    "eval_steps": f"{EFFECTS}::test_evaluation_comes_when_it_is_asked_for",
    "eval_delay": f"{EFFECTS}::test_evaluation_comes_when_it_is_asked_for",
    "eval_on_start": f"{EFFECTS}::test_evaluation_comes_when_it_is_asked_for",
    "do_eval": "training/test_training_arguments.py::test_what_goes_with_another_argument_is_refused_without_it",
    "save_strategy": f"{EFFECTS}::test_checkpoints_are_saved_as_asked_for",
    "save_steps": f"{EFFECTS}::test_checkpoints_are_saved_as_asked_for",
    "save_only_model": f"{EFFECTS}::test_checkpoints_are_saved_as_asked_for",
    "save_total_limit": f"{EFFECTS}::test_checkpoints_are_saved_as_asked_for",
    "enable_jit_checkpoint": f"{STOPPED}::test_tuning_stops_and_goes_on_where_it_stopped",
    "push_to_hub": "examples/test_tune.py::test_pushed_repository_is_exactly_encoder_preprocessor_code_and_card",
    "hub_token": "hub/test_push.py::test_pushed_folder_is_clean_and_gives_the_same_embedding",
    "hub_private_repo": "hub/test_push.py::test_pushed_folder_is_clean_and_gives_the_same_embedding",
    "hub_model_id": "examples/test_tune.py::test_pushed_repository_is_exactly_encoder_preprocessor_code_and_card",
    "load_best_model_at_end": "fine_tuning/test_fine_tuning_trainer.py::test_the_best_checkpoint_is_what_is_kept",
    "metric_for_best_model": f"{EFFECTS}::test_the_best_model_is_the_best_by_each_metric",
    "greater_is_better": "training/test_training_arguments.py::test_the_direction_follows_from_the_metric",
    "restore_callback_states_from_checkpoint": f"{EFFECTS}::test_callbacks_go_on_with_their_state",
    "resume_from_checkpoint": "examples/test_tune.py::test_resuming_equals_never_having_stopped",
    "seed": "tuning/test_trainer.py::test_the_same_seed_gives_the_same_losses_and_another_seed_others",
    "data_seed": f"{EFFECTS}::test_the_order_goes_by_the_seed_of_the_data",
    "use_cpu": "tuning/test_two_processes.py::test_a_run_over_two_processes_keeps_them_alike_and_resumes_exactly",
    "ddp_backend": "tuning/test_two_processes.py::test_a_run_over_two_processes_keeps_them_alike_and_resumes_exactly",
    "dataloader_drop_last": f"{EFFECTS}::test_a_last_batch_is_dropped_where_that_is_asked_for",
    "dataloader_num_workers": f"{OTHER_RUNS}::test_with_workers_a_run_goes_on_in_the_middle_of_an_epoch",
    "dataloader_prefetch_factor": f"{EFFECTS}::test_loaders_are_made_as_asked_for",
    "dataloader_multiprocessing_context": f"{EFFECTS}::test_loaders_are_made_as_asked_for",
}
# Pretraining alone lets the Trainer upload, which it does as it does for any model.
UPLOADS = "test_transformers_use.py::test_the_trainer_pushes_what_a_pipeline_pulls_where_the_package_is_absent"
UPLOADING = dict.fromkeys(("hub_strategy", "hub_always_push", "hub_revision"), UPLOADS)
# It alone has streams.
STREAMS = {
    "ignore_data_skip": "examples/test_other_runs_by_scripts.py::"
    "test_a_stream_of_other_files_or_in_another_order_is_refused"
}
PRETRAINING = UPLOADING | STREAMS

# A value of each refused argument that is not its default.
GIVEN: dict[str, Any] = {
    "accelerator_config": {"split_batches": True}, "average_tokens_across_devices": False, "bf16_full_eval": True,
    "dataloader_in_order": False, "debug": "underflow_overflow", "eval_accumulation_steps": 3, "eval_delay": 2,
    "eval_do_concat_batches": False, "eval_steps": 7, "eval_strategy": "epoch", "hub_revision": "dev",
    "hub_strategy": "checkpoint", "include_for_metrics": ["loss"], "include_num_input_tokens_seen": "all",
    "label_names": ["y"], "label_smoothing_factor": 0.9, "length_column_name": "frames",
    "liger_kernel_config": {"rope": True}, "metric_for_best_model": "loss", "neftune_noise_alpha": 5.0,
    "optim_target_modules": "all-linear", "parallelism_config": object(), "per_device_eval_batch_size": 3,
    "train_sampling_strategy": "group_by_length", "greater_is_better": False,
}  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_every_inherited_argument_is_in_the_table(job: str) -> None:
    """One that a new version of transformers adds is in neither part, until someone has looked what it does here."""
    inherited = {entry.name for entry in dataclasses.fields(TrainingArguments)}
    works, refused = WORKS.keys() | (PRETRAINING if job == "pretrain" else {}).keys(), JOBS[job].refused.keys()
    works -= refused  # what works in one kind of training may be refused in another
    assert inherited - works - refused == set(), "not classified"
    assert (works | refused) - inherited == set(), "not of transformers"
    if job != "tune":
        assert refused - JOBS["pretrain"].refused.keys() <= PRETRAINING.keys()


def test_the_tests_of_the_table_exist() -> None:
    for name, test in (WORKS | PRETRAINING).items():
        if test != "passed on":
            file, function = test.split("::")
            assert re.search(rf"^def {function}\(", (TESTS / file).read_text(), re.MULTILINE), (name, test)


def make(job: str, folder: Path, **given: Any) -> Any:
    return JOBS[job](**{"output_dir": str(folder), "use_cpu": True, **given})


@pytest.mark.parametrize("job, name", [(job, name) for job, kind in JOBS.items() for name in sorted(kind.refused)])
def test_what_has_no_effect_is_refused_by_name_with_a_reason(job: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no effect here: .*{name}=.*: {re.escape(JOBS[job].refused[name])}"):
        make(job, tmp_path, **{name: GIVEN.get(name, True)})


@pytest.mark.parametrize("job", JOBS)
def test_defaults_in_any_form_and_copies_are_taken(job: str, tmp_path: Path) -> None:
    args = make(job, tmp_path, include_num_input_tokens_seen=False, debug=[], report_to=["none"])
    again = dataclasses.replace(dataclasses.replace(args, seed=7), seed=args.seed)
    left, right = (dataclasses.asdict(part) for part in (args, again))
    assert left == right
    assert dataclasses.replace(args, output_dir="x").without_hub().output_dir == "x"


CONDITIONS = [
    ({"eval_steps": 5}, {"eval_strategy": "steps"}),
    ({"eval_delay": 1}, {"eval_strategy": "epoch"}),
    ({"eval_on_start": True}, {"eval_strategy": "epoch"}),
    ({"do_eval": True}, {"eval_strategy": "epoch"}),
    ({"metric_for_best_model": "loss"}, {"eval_strategy": "epoch"}),
    ({"greater_is_better": False}, {"eval_strategy": "epoch", "metric_for_best_model": "loss"}),
    ({"save_steps": 5}, {"save_strategy": "steps"}),
    ({"logging_steps": 5}, {"logging_strategy": "steps"}),
    ({"run_name": "mine"}, {"report_to": "tensorboard"}),
    ({"project": "mine"}, {"report_to": "trackio"}),
    ({"hub_model_id": "me/it"}, {"push_to_hub": True}),
    ({"hub_token": "x"}, {"push_to_hub": True}),
    ({"hub_revision": "dev"}, {"push_to_hub": True}),
    ({"activation_checkpointing_kwargs": {"every_n_layers": 2}}, {"activation_checkpointing": True}),
    ({"fsdp_config": {"version": 2}}, {"fsdp": True}),
]


@pytest.mark.parametrize("given, needed", CONDITIONS, ids=lambda given: "-".join(given))
def test_what_goes_with_another_argument_is_refused_without_it(
    given: dict[str, Any], needed: dict[str, Any], tmp_path: Path
) -> None:
    off = {"save_strategy": "no", "logging_strategy": "no", "eval_strategy": "no"}
    with pytest.raises(ValueError, match=rf"no effect here: {next(iter(given))}="):
        make("pretrain", tmp_path, **off, **given)
    if "fsdp" not in needed:  # accelerate looks for an accelerator
        make("pretrain", tmp_path, **{**off, **given, **needed})


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_no_clip_are_refused(job: str, size: int, tmp_path: Path) -> None:
    names = ["per_device_train_batch_size", "gradient_accumulation_steps"]
    for name in names + ["per_device_eval_batch_size"] * (job != "tune"):
        with pytest.raises(ValueError, match=f"{name}={size}: at least 1"):
            make(job, tmp_path, **{name: size})
    with pytest.raises(ValueError, match="max_steps=0"):
        make(job, tmp_path, max_steps=0)


@pytest.mark.parametrize("prefix", ["", "eval_"])
def test_the_direction_follows_from_the_metric(prefix: str, tmp_path: Path) -> None:
    less = {"finetune": ["loss", "mse", "mae"], "pretrain": ["loss", "loss_reconstruction", "loss_contrastive"]}
    more = ["pearson", "accuracy", "balanced_accuracy", "accuracy_loss", "mean_average_precision",
            "micro_average_precision", "average_precision_mse"]  # fmt: skip
    cases = [(job, name, False) for job, names in less.items() for name in names]
    for job, name, greater in cases + [("finetune", name, True) for name in more]:
        given = {"metric_for_best_model": prefix + name, "eval_strategy": "epoch", "save_strategy": "epoch"}
        assert make(job, tmp_path, **given).greater_is_better is greater
        assert make(job, tmp_path, **given, greater_is_better=greater).greater_is_better is greater
        better = f"{'higher' if greater else 'lower'} is better for {prefix}{name}"
        with pytest.raises(ValueError, match=f"greater_is_better={not greater}: {better}"):
            make(job, tmp_path, **given, greater_is_better=not greater)
        plateau = make(job, tmp_path, **given, lr_scheduler_type="reduce_lr_on_plateau")
        assert plateau.lr_scheduler_kwargs == {"mode": "max" if greater else "min"}
        wrong = {"lr_scheduler_type": "greedy", "lr_scheduler_kwargs": {"mode": "min" if greater else "max"}}
        with pytest.raises(ValueError, match="lr_scheduler_kwargs"):
            make(job, tmp_path, **given, **wrong)


def strategies(args: FineTuningArguments) -> tuple:
    return (*map(str, (args.eval_strategy.value, args.save_strategy.value)), args.load_best_model_at_end)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, ("epoch", "epoch", True)),
        ({"save_strategy": "steps", "save_steps": 30}, ("steps", "steps", True)),
        ({"save_strategy": "steps", "save_steps": 30, "eval_strategy": "steps"}, ("steps", "steps", True)),
        ({"save_strategy": "no"}, ("epoch", "no", False)),
        ({"save_strategy": "best"}, ("epoch", "best", True)),
        ({"eval_strategy": "no"}, ("no", "epoch", False)),
        (
            {"save_strategy": "steps", "eval_strategy": "epoch", "load_best_model_at_end": False},
            ("epoch", "steps", False),
        ),
    ],
)
def test_rows_are_evaluated_when_checkpoints_are_saved(given: dict, expected: tuple, tmp_path: Path) -> None:
    args = make("finetune", tmp_path, **given)
    assert strategies(args) == strategies(dataclasses.replace(args)) == expected
    assert args.eval_steps == (30 if args.eval_strategy == "steps" else None)


@pytest.mark.parametrize(
    "given",
    [
        {"save_strategy": "steps", "eval_strategy": "epoch"},
        {"save_strategy": "epoch", "eval_strategy": "steps"},
        {"save_strategy": "no", "load_best_model_at_end": True},
        {"eval_strategy": "no", "load_best_model_at_end": True},
    ],
)
def test_a_best_model_that_would_not_be_saved_or_evaluated_is_refused(given: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the best model is a checkpoint that was evaluated. Leave eval_strategy out"):
        make("finetune", tmp_path, **given)


def test_tuning_has_no_best_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save_strategy=best: tuning evaluates nothing"):
        make("tune", tmp_path, save_strategy="best")


@pytest.mark.parametrize("job", ["tune", "finetune"])
def test_weights_in_parts_are_refused(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="multi_gpu.yaml"):
        make(job, tmp_path)
