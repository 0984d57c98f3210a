"""Losses and gradients that are not finite: training stops before the weights take them in, and says which clips."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from planted_faults import spoil_clip
from processes import run_example
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones
from transformers import TrainerCallback, set_seed

from uamix_hf import AudioMAEForPreTraining, AudioMAEModel, UaMixTrainingArguments
from uamix_hf.data import FeatureCollator
from uamix_hf.pretraining import PretrainingArguments, PretrainingTrainer
from uamix_hf.training.trainer import LengthBucketTrainer, NonFiniteLossError
from uamix_hf.tuning import StageTrainer, UaMixForContrastiveTuning

SPOILT = 5
SMALL = {"projector_hidden_size": 24, "projection_size": 16, "predictor_hidden_size": 32, "queue_size": 8, "topk": 1}


class Before(TrainerCallback):
    """The parameters as they were when the last step began."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.parameters = copy.deepcopy(dict(model.named_parameters()))


class Spoiling(FeatureCollator):
    """One clip's log-mels hold a NaN, from the second time that it comes on."""

    seen = 0

    def __call__(self, rows):
        batch = super().__call__(rows)
        if (batch["sample_id"] == SPOILT).any():
            self.seen += 1
            if self.seen > 1:
                batch["input_values"][batch["sample_id"] == SPOILT, 3, 2] = float("nan")
        return batch


@pytest.fixture
def make_trainer(tmp_path: Path):
    """`make_trainer(kind, collator=FeatureCollator, **arguments)`: of `"head"`, `"tune"` or `"pretrain"`; 12 clips."""

    def make(kind: str, collator: type[FeatureCollator] = FeatureCollator, **arguments) -> LengthBucketTrainer:
        set_seed(0)
        data = log_mels(tones(12)[0])
        saving = {} if arguments.get("save_strategy") == "no" else {"save_steps": 2}
        fixed = {
            "output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True, "report_to": "none",
            "per_device_train_batch_size": 4, "max_steps": 12, "remove_unused_columns": False,
            **saving, **arguments,
        }  # fmt: skip
        if kind == "pretrain":
            fixed.pop("remove_unused_columns")
            trainer = PretrainingTrainer(AudioMAEForPreTraining(CONFIG), PretrainingArguments(**fixed), data, EXTRACTOR)
            trainer.add_callback(Before())
            trainer.data_collator = collator(EXTRACTOR, CONFIG.max_length, normalize=True)
            return trainer
        model = UaMixForContrastiveTuning.from_encoder(AudioMAEModel(CONFIG), **SMALL)
        args = UaMixTrainingArguments(head_steps=12, recipe="plastic", **fixed)
        trainer = StageTrainer(model, args, data, EXTRACTOR, kind, [Before()])
        trainer.data_collator = collator(EXTRACTOR, 2 * CONFIG.max_length, normalize=False)
        return trainer

    return make


def train_and_fail(trainer: LengthBucketTrainer) -> NonFiniteLossError:
    """The error; the parameters must be as they were before the step, and finite."""
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    before = next(part for part in trainer.callback_handler.callbacks if isinstance(part, Before)).parameters
    for name, value in trainer.model.named_parameters():
        assert value.isfinite().all() and torch.equal(value, before[name]), name
    return caught.value


def record_ids(trainer: LengthBucketTrainer, ids: list[list[int]]) -> None:
    """Those of each batch that is trained on, which the model itself is not given."""
    compute = trainer.compute_loss

    def recorded(model, inputs, *args, **kwargs):
        ids.append(inputs["sample_id"].tolist())
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = recorded


@pytest.mark.parametrize("kind", ["head", "tune", "pretrain"])
def test_training_stops_at_a_clip_that_is_not_finite_and_names_it(make_trainer, tmp_path, kind):
    error = train_and_fail(make_trainer(kind, Spoiling))
    assert error.sample_ids == [SPOILT]
    assert 4 <= error.step <= 6  # three steps an epoch: the second time is in the second one
    last = tmp_path / "run" / ("head" if kind == "head" else "") / "checkpoint-4"
    if error.step > 4:
        assert error.checkpoint == str(last) and str(last) in str(error)
        assert all(value.isfinite().all() for value in load_file(last / "model.safetensors").values())
    assert f"loss of step {error.step} is not finite" in str(error) and f"sample_id [{SPOILT}]" in str(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_where_all_clips_are_finite_the_whole_batch_is_named(make_trainer, value):
    trainer, batches = make_trainer("pretrain", save_strategy="no"), []
    record_ids(trainer, batches)

    def spoil(module, args, kwargs, output):
        if len(batches) == 3:
            output.loss = output.loss + value

    trainer.model.register_forward_hook(spoil, with_kwargs=True)
    error = train_and_fail(trainer)
    assert (error.step, error.checkpoint) == (3, None) and sorted(error.sample_ids) == sorted(batches[-1])
    assert "there is no checkpoint yet" in str(error)


def test_a_gradient_that_is_not_finite_stops_training_as_well(make_trainer):
    """Though the loss is finite; and though gradients are not clipped."""
    trainer = make_trainer("tune", save_strategy="no", max_grad_norm=0.0)
    parameter = next(trainer.model.encoder.layers[0].parameters())
    parameter.register_hook(lambda gradient: gradient * (float("nan") if trainer.state.global_step == 2 else 1.0))
    error = train_and_fail(trainer)
    assert "The gradient of step 3 is not finite" in str(error) and len(error.sample_ids) == 4


def test_of_accumulated_batches_the_one_that_is_not_finite_is_named(make_trainer):
    trainer, calls = make_trainer("pretrain", gradient_accumulation_steps=3, save_strategy="no"), []
    record_ids(trainer, calls)

    def spoil(module, args, kwargs, output):
        if len(calls) == 5:
            output.loss = output.loss * float("nan")

    trainer.model.register_forward_hook(spoil, with_kwargs=True)
    error = train_and_fail(trainer)
    assert error.step == 2 and error.sample_ids == calls[4] and len(calls) == 6


@pytest.mark.slow
def test_the_scripts_stop_and_resume_once_the_cause_is_gone(tune, whole, inputs, assert_same_end, tmp_path):
    """Of tuning, the end is the one of the run that never met it; pretraining goes on from its last checkpoint."""
    output = tmp_path / "tuned"
    ended = tune(output, fault=partial(spoil_clip, 7, 4))
    message = ended.printed[0].strip().splitlines()[-1]
    assert ended.codes == [1] and "NonFiniteLossError: The loss of step" in message and "sample_id [7]" in message
    assert str(output / "checkpoint-") in message
    resumed = tune(output, "--resume_from_checkpoint", "true")
    assert resumed.codes == [0], resumed.printed
    assert_same_end(output, whole)
    folders = [tmp_path / name for name in ("never", "once")]
    flags = ["--max_steps", 8, "--save_strategy", "steps", "--save_steps", 2, "--per_device_train_batch_size", 8]
    flags += ["--use_cpu", "--report_to", "none", "--disable_tqdm", True, *inputs]
    ends = [
        run_example("pretrain.py", "--output_dir", folders[0], *flags),
        run_example("pretrain.py", "--output_dir", folders[1], *flags, fault=partial(spoil_clip, 7, 4)),
        run_example("pretrain.py", "--output_dir", folders[1], *flags, "--resume_from_checkpoint", "true"),
    ]
    assert [ended.codes for ended in ends] == [[0], [1], [0]], ends[-1].printed
    assert "sample_id [7]" in ends[1].printed[0]
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())
