"""Checkpoints of another run than the one that asks for them: other settings, data, classes or base models are refused
by name, and none is found where a run starts."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import TrainerCallback, set_seed

from uamix_hf import (
    AnotherRunError,
    AudioMAEForPreTraining,
    AudioMAEModel,
    RunCheckpointError,
    UaMixTrainingArguments,
)
from uamix_hf.fine_tuning import (
    FineTuningArguments,
    FineTuningTrainer,
    FixMatchArguments,
    FixMatchTrainer,
    make_classifier,
    with_labels,
)
from uamix_hf.pretraining import PretrainingArguments, PretrainingTrainer
from uamix_hf.training import LengthBucketTrainer, with_random_weights
from uamix_hf.tuning import StageTrainer, UaMixForContrastiveTuning, train_stages

WAVES, LABELS = tones(14)
CLIPS = log_mels(WAVES)
SMALL = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 8, "topk": 1}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
           "decoder_intermediate_size": 32}  # fmt: skip
ARGUMENTS = {
    "tune": UaMixTrainingArguments, "finetune": FineTuningArguments, "fixmatch": FineTuningArguments,
    "pretrain": PretrainingArguments,
}  # fmt: skip


def make(
    kind: str, folder: Path, rows=range(12), labels=LABELS, names="abc", encoder=None, method=None, **arguments
) -> LengthBucketTrainer:
    """A trainer on these rows of 14 clips, of three steps an epoch."""
    set_seed(0)
    recipe = {"recipe": "plastic"} if kind == "tune" else {}
    args = ARGUMENTS[kind](**{
        **recipe, "output_dir": str(folder), "use_cpu": True, "disable_tqdm": True, "report_to": "none", "max_steps": 4,
        "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1, **arguments,
    })  # fmt: skip
    method = method or {}
    encoder = AudioMAEModel(CONFIG) if encoder is None else encoder
    clips = CLIPS.select(rows)
    if kind == "tune":
        return StageTrainer(
            UaMixForContrastiveTuning.from_encoder(encoder, **{**SMALL, **method}), args, clips, EXTRACTOR
        )
    if kind == "pretrain":
        model = AudioMAEForPreTraining(type(CONFIG)(**{**CONFIG.to_dict(), **method}))
        return PretrainingTrainer(model, args, clips, EXTRACTOR)
    model = make_classifier(
        encoder, 3, problem_type="single_label_classification", id2label=dict(enumerate(names)),
        **args.model_settings(encoder),
    )  # fmt: skip
    labelled = with_labels(CLIPS, labels)
    if kind == "finetune":
        evaluated = labelled.select(range(12, 14)) if args.eval_strategy != "no" else None
        return FineTuningTrainer(model, args, labelled.select(rows), EXTRACTOR, evaluated)
    unlabelled = CLIPS.select(method.pop("unlabelled", range(12, 14)))
    return FixMatchTrainer(model, args, labelled.select(rows), EXTRACTOR, unlabelled, FixMatchArguments(True, **method))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each kind, with checkpoints of steps 2 and 4."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ARGUMENTS}
    for kind, folder in folders.items():
        make(kind, folder, **NO_EVALUATION.get(kind, {}), save_total_limit=None).train()
    return folders


NO_EVALUATION = {kind: {"eval_strategy": "no", "load_best_model_at_end": False} for kind in ("finetune", "fixmatch")}


def resume(runs: dict[str, Path], kind: str, folder: Path, **changes) -> LengthBucketTrainer:
    shutil.copytree(runs[kind] / "checkpoint-2", folder / "checkpoint-2")
    trainer = make(kind, folder, **{**NO_EVALUATION.get(kind, {}), **changes})
    trainer.train(resume_from_checkpoint="true")
    return trainer


# --- what is refused


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("tune", {"method": {"mix": "none"}}, "mix: checkpoint 't-cutmix', now 'none'"),
        ("tune", {"method": {"queue_size": 6}}, "queue_size: checkpoint 8, now 6"),
        ("tune", {"learning_rate": 1e-5}, "learning_rate: checkpoint 0.001, now 1e-05"),
        ("tune", {"seed": 7}, "seed: checkpoint 42, now 7"),
        ("tune", {"freeze_blocks": 0.5}, "freeze_blocks: checkpoint 0.0, now 0.5"),
        ("tune", {"head_steps": 9}, "head_steps: checkpoint -1, now 9"),
        ("finetune", {"linear_probe": True}, "linear_probe: checkpoint False, now True"),
        ("finetune", {"warmup_steps": 0.3}, "warmup_steps: checkpoint 0.1, now 0.3"),
        ("finetune", {"names": "acb"}, "class_names: checkpoint ['a', 'b', 'c'], now ['a', 'c', 'b']"),
        ("finetune", {"labels": LABELS[::-1]}, "data.labels: checkpoint '"),
        ("fixmatch", {"method": {"confidence_threshold": 0.5}}, "confidence_threshold: checkpoint 0.95, now 0.5"),
        ("fixmatch", {"method": {"unlabelled": [13, 12]}}, "unlabelled_data: the same clips in another order"),
        ("pretrain", {"method": {"mask_ratio": 0.6}}, "model.mask_ratio: checkpoint 0.8, now 0.6"),
        ("pretrain", {"roll": False}, "roll: checkpoint True, now False"),
        ("pretrain", {"lr_scheduler_type": "linear"}, "lr_scheduler_type: checkpoint 'cosine', now 'linear'"),
        ("pretrain", {"data_seed": 3}, "data_seed: checkpoint None, now 3"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name_with_both_values(runs, tmp_path, kind, changes, message):
    with pytest.raises(AnotherRunError, match=re.escape(message)) as caught:
        resume(runs, kind, tmp_path, **changes)
    assert "checkpoint-2 was made by another run" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(
    "kind, before, now",
    [
        ("tune", "support_queue.", "neighbour_queue."),  # as version 0.1.0 called it
        ("finetune", "head.", "classifier."),
        ("pretrain", "audio_mae.blocks.", "audio_mae.layers."),
    ],
)
def test_weights_under_other_names_are_refused(runs, tmp_path, kind, before, now):
    """Else a run would go on with what its model was initialised with, here with an empty queue."""
    trainer = make(kind, tmp_path, **NO_EVALUATION.get(kind, {}))
    shutil.copytree(runs[kind] / "checkpoint-2", tmp_path / "checkpoint-2")
    file = tmp_path / "checkpoint-2" / "model.safetensors"
    weights = {name.replace(now, before): value for name, value in load_file(file).items()}
    assert any(name.startswith(before) for name in weights)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(AnotherRunError, match=re.escape(f"checkpoint-2 lacks {now}")) as caught:
        trainer.train(resume_from_checkpoint="true")
    assert f"holds {before}" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("kind", ["tune", "finetune", "pretrain"])
@pytest.mark.parametrize(
    "rows, message",
    [
        ([*range(5), 6, 5, *range(7, 12)], "data: the same clips in another order, from row 5 on"),
        (range(13), "data.clips: checkpoint 12, now 13"),
        ([*range(7), 13, *range(8, 12)], "data: 1 of 12 clips differ, the first in row 7"),
    ],
)
def test_other_rows_are_refused_with_the_reason(runs, tmp_path, kind, rows, message):
    with pytest.raises(AnotherRunError, match=re.escape(message)):
        resume(runs, kind, tmp_path, rows=rows)


def test_equal_clips_of_other_ids_are_refused(runs, tmp_path, monkeypatch):
    """Of folders that got another clip, which a condition leaves out: keys of the queue would be of other clips."""
    shifted = CLIPS.remove_columns("sample_id").add_column("sample_id", list(range(1, 15)))
    monkeypatch.setattr(f"{__name__}.CLIPS", shifted)
    with pytest.raises(AnotherRunError, match="data.sample_id: checkpoint"):
        resume(runs, "tune", tmp_path)


def test_another_stage_kind_or_an_unknown_maker_is_refused(runs, tmp_path):
    checkpoint = str(runs["tune"] / "checkpoint-2")
    with pytest.raises(AnotherRunError, match="trainer: checkpoint 'StageTrainer', now 'PretrainingTrainer'"):
        make("pretrain", tmp_path / "other").train(checkpoint)
    trainer = make("tune", tmp_path / "head")
    trainer.stage = "head"
    with pytest.raises(AnotherRunError, match="stage: checkpoint 'tune', now 'head'"):
        trainer.train(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "run.json").unlink()
    with pytest.raises(AnotherRunError, match="has no run.json"):
        make("tune", tmp_path).train("true")


def test_another_base_model_is_refused_and_a_moved_one_is_not(runs, tmp_path):
    bases = [tmp_path / "bases" / name for name in ("one", "two")]
    for seed, base in enumerate(bases):
        torch.manual_seed(seed)
        AudioMAEModel(CONFIG).save_pretrained(base)
    output = tmp_path / "run"
    make("tune", output, encoder=AudioMAEModel.from_pretrained(bases[0]), max_steps=2).train()
    for other in (bases[1], None):
        encoder = AudioMAEModel.from_pretrained(other or bases[0])
        with pytest.raises(AnotherRunError, match="base_model.weights: checkpoint '"):
            make("tune", output, encoder=encoder if other else with_random_weights(encoder)).train("true")
    moved = shutil.move(bases[0], tmp_path / "elsewhere")
    make("tune", output, encoder=AudioMAEModel.from_pretrained(moved)).train("true")


# --- what may change


def test_where_things_go_and_what_is_watched_may_change_in_silence(runs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "uamix_hf"):
        trainer = resume(
            runs, "finetune", tmp_path, save_steps=1, save_total_limit=None, logging_steps=2, logging_first_step=True,
            eval_strategy="steps", eval_steps=1, dataloader_num_workers=1, per_device_eval_batch_size=3,
        )  # fmt: skip
    assert not [
        record
        for record in caplog.records
        if record.name in ("uamix_hf.training.run_identity", "uamix_hf.training.checkpoints")
    ]
    expected = load_file(runs["finetune"] / "checkpoint-4" / "model.safetensors")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_batch_and_the_steps_may_change_with_a_warning(runs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "uamix_hf"):
        trainer = resume(runs, "tune", tmp_path, per_device_train_batch_size=6, max_steps=5)
    assert trainer.state.global_step == 5
    (message,) = [record.getMessage() for record in caplog.records if "other settings" in record.getMessage()]
    assert "per_device_train_batch_size: checkpoint 4, now 6" in message and "max_steps: checkpoint 4, now 5" in message


def test_a_recipe_whose_rate_follows_the_batch_needs_the_rate_of_the_checkpoint(tmp_path):
    make("tune", tmp_path, max_steps=2, recipe="gentle", guard="off").train()
    larger = {"max_steps": 3, "recipe": "gentle", "guard": "off", "per_device_train_batch_size": 6}
    with pytest.raises(AnotherRunError, match="learning_rate: checkpoint 8.16e-06, now 1e-05"):
        make("tune", tmp_path, **larger).train("true")
    assert make("tune", tmp_path, **larger, learning_rate=8.16e-6).train("true").global_step == 3


def test_fewer_steps_than_were_done_are_refused(runs, tmp_path):
    with pytest.raises(RunCheckpointError, match="checkpoint-2 is beyond the 1 steps"):
        resume(runs, "tune", tmp_path, max_steps=1)


def test_levels_of_the_same_clips_on_another_processor_are_no_other_clips(runs, tmp_path):
    """Log-mels differ there by single roundings of float16."""
    file = tmp_path / "checkpoint-2" / "run.json"
    shutil.copytree(runs["tune"] / "checkpoint-2", file.parent)
    identity = json.loads(file.read_text())
    identity["data"]["levels"] = [[one + 2e-4, two - 2e-4] for one, two in identity["data"]["levels"]]
    file.write_text(json.dumps(identity))
    assert make("tune", tmp_path).train("true").global_step == 4


# --- where a run starts


class Fail(TrainerCallback):
    """Ends training in the middle of a step, as a power cut would."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            raise KeyboardInterrupt


def checkpoints(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("checkpoint-*")}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_run_is_not_started_among_checkpoints_of_another(runs, tmp_path, kind):
    """Of 12 steps, of which those of a run of 8 would be taken for later ones."""
    settings = NO_EVALUATION.get(kind, {}) | {"save_total_limit": None}
    (tmp_path / "notes").mkdir()
    for step in (2, 12):
        shutil.copytree(runs[kind] / "checkpoint-2", tmp_path / f"checkpoint-{step}")
    with pytest.raises(
        RunCheckpointError, match=r"earlier run \(checkpoint-12, checkpoint-2\).*--overwrite_output_dir"
    ):
        make(kind, tmp_path, **settings).train()
    assert checkpoints(tmp_path) == {"checkpoint-2", "checkpoint-12"}
    trainer = make(kind, tmp_path, max_steps=8, overwrite_output_dir=True, **settings)
    trainer.add_callback(Fail(5))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert checkpoints(tmp_path) == {"checkpoint-2", "checkpoint-4"} and (tmp_path / "notes").is_dir()
    again = make(kind, tmp_path, max_steps=8, **settings)
    begun = []
    again.add_callback(
        type("Begun", (TrainerCallback,), {"on_train_begin": lambda *call, **_: begun.append(call[2])})()
    )
    again.train("true")
    assert again.state.global_step == 8 and begun and len(again.state.log_history) > 8


def test_what_would_be_resumed_from_is_not_removed_in_the_same_breath(runs, tmp_path):
    with pytest.raises(ValueError, match="overwrite_output_dir removes what resume_from_checkpoint"):
        resume(runs, "tune", tmp_path, overwrite_output_dir=True)
    assert checkpoints(tmp_path) == {"checkpoint-2"}


@pytest.mark.parametrize("place", ["head", "."])
def test_both_stages_start_in_a_folder_without_checkpoints_of_either(runs, tmp_path, place):
    shutil.copytree(runs["tune"] / "checkpoint-2", tmp_path / place / "checkpoint-12")

    def stages(**arguments):
        trainer = make("tune", tmp_path, head_steps=1, max_steps=1, save_steps=1, **arguments)
        return train_stages(trainer.model, trainer.args, CLIPS, EXTRACTOR)

    with pytest.raises(RunCheckpointError, match="checkpoint-12"):
        stages()
    assert checkpoints(tmp_path) == {str(Path(place) / "checkpoint-12")}
    stages(overwrite_output_dir=True)
    assert checkpoints(tmp_path) == {"checkpoint-1", "head/checkpoint-1"}


def test_a_callback_that_stops_stage_1_stops_the_run(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    trainer = make("tune", tmp_path, head_steps=5)
    with pytest.raises(RuntimeError, match="stopped stage 1 after step 2 of 5"):
        train_stages(trainer.model, trainer.args, CLIPS, EXTRACTOR, [Stop()])
    assert checkpoints(tmp_path) == {"head/checkpoint-2"}


# --- a run that is moved


class Worsen(TrainerCallback):
    """From step 3 on, weights that say one class of everything, so that step 2 is the best."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step >= 3:
            with torch.no_grad():
                model.classifier.weight.zero_()
                model.classifier.bias.copy_(torch.tensor([-50.0, 50.0, -50.0]))


BEST = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": None,
        "metric_for_best_model": "loss"}  # fmt: skip


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fine-tuning whose best checkpoint is not its last."""
    folder = tmp_path_factory.mktemp("best") / "first"
    trainer = make("finetune", folder, **BEST)
    trainer.add_callback(Worsen())
    trainer.train()
    assert trainer.state.best_global_step in (1, 2)
    return folder


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("original", ["gone", "another's"])
def test_the_best_model_of_a_moved_run_is_still_found(best, tmp_path, monkeypatch, finished, original):
    """Though something else may lie where it was."""
    first, moved = tmp_path / "first", tmp_path / "moved"
    shutil.copytree(best, moved)
    for path in moved.glob("checkpoint-*/trainer_state.json"):
        path.write_text(path.read_text().replace(str(best), str(first)))
    if original == "another's":
        shutil.copytree(best / "checkpoint-4", first / "checkpoint-1")
        shutil.copytree(best / "checkpoint-4", first / "checkpoint-2")
    if not finished:
        shutil.rmtree(moved / "checkpoint-4")
    trainer = make("finetune", moved, **BEST)
    trainer.add_callback(Worsen())
    trainer.train("true")
    step = json.loads((best / "checkpoint-4" / "trainer_state.json").read_text())["best_global_step"]
    assert trainer.state.best_model_checkpoint == str(moved / f"checkpoint-{step}")
    expected = load_file(best / f"checkpoint-{step}" / "model.safetensors")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_best_model_that_is_gone_is_no_reason_to_take_the_last(best, tmp_path):
    shutil.copytree(best / "checkpoint-4", tmp_path / "checkpoint-4")
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text().replace(str(best), str(tmp_path / "gone")))
    with pytest.raises(RunCheckpointError, match=r"checkpoint-\d, the best checkpoint so far, is missing"):
        make("finetune", tmp_path, **BEST).train("true")


def test_a_run_goes_on_under_a_relative_path(best, tmp_path, monkeypatch):
    shutil.copytree(best, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoint-4")
    monkeypatch.chdir(tmp_path)
    trainer = make("finetune", Path("moved"), **BEST | {"save_total_limit": 1})
    trainer.add_callback(Worsen())
    trainer.train("true")
    assert os.path.samefile(
        trainer.state.best_model_checkpoint, tmp_path / "moved" / f"checkpoint-{trainer.state.best_global_step}"
    )


# --- loaders


def test_with_workers_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path):
    ends = []
    for folder, steps in ((tmp_path / "whole", [5]), (tmp_path / "parts", [2, 5])):
        for number in steps:
            trainer = make("finetune", folder, **NO_EVALUATION["finetune"], max_steps=5, dataloader_num_workers=2)
            if number != 5:
                trainer.add_callback(Fail(number + 1))
                with pytest.raises(KeyboardInterrupt):
                    trainer.train()
            else:
                trainer.train("true")
        ends.append(trainer.model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
