"""SIGTERM with --enable_jit_checkpoint, to real processes: the run stops with a checkpoint, claims nothing, and once it
is resumed ends as if there had been no signal."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from planted_faults import run_example, terminate_in_step
from safetensors.torch import load_file
from toy_sounds import CONFIG, EXTRACTOR, log_mels, tones, write_tones
from transformers import TrainerCallback, set_seed

from uamix_hf import AudioMAEModel, RunStoppedError, UaMixForContrastiveTuning, UaMixTrainingArguments
from uamix_hf.tuning import StageTrainer

STOP = ("--enable_jit_checkpoint", "true")
RESUME = ("--resume_from_checkpoint", "true")


@pytest.mark.parametrize(
    "stage, step, left",
    [
        pytest.param("head", 1, "head/checkpoint-1", id="stage 1"),
        pytest.param("head", 4, "head/checkpoint-4", id="the last step of stage 1"),
        pytest.param("tune", 5, "checkpoint-5", id="stage 2"),
    ],
)
def test_tuning_stops_and_goes_on_where_it_stopped(tune, whole, assert_same_end, tmp_path, stage, step, left):
    output = tmp_path / "tuned"
    ended = tune(output, *STOP, fault=partial(terminate_in_step, step, stage))
    assert ended.codes == [1]
    message = ended.printed[0].strip().splitlines()[-1]
    steps = 4 if stage == "head" else 8
    assert f"RunStoppedError: Stopped by SIGTERM after step {step} of {steps}. {output / left} is complete" in message
    assert (output / left / "trainer_state.json").is_file()
    assert not (output / "README.md").exists() and not (output / "model.safetensors").exists()
    if stage == "head":
        assert not list(output.glob("checkpoint-*"))
    resumed = tune(output, *RESUME)
    assert resumed.codes == [0], resumed.printed
    assert_same_end(output, whole)


@pytest.mark.parametrize("script", ["finetune.py", pytest.param("pretrain.py", marks=pytest.mark.slow)])
def test_the_other_scripts_stop_too_and_claim_nothing(inputs, tmp_path, script):
    if script == "finetune.py":
        waves, labels = tones(18)
        sounds = write_tones(tmp_path / "sounds", len(waves))
        lines = [f"{row:02d}.wav,{'abc'[label]},{row // 12}" for row, label in enumerate(labels)]
        (sounds / "metadata.csv").write_text("\n".join(["file_name,label,fold", *lines]))
        # Of the best checkpoint and the last, transformers deletes the last where training ends: here it does not end.
        flags = [*inputs[:2], "--train_dir", sounds, "--label_column", "label", "--eval_where", "fold=1",
                 "--eval_strategy", "steps", "--eval_steps", 2]  # fmt: skip
    else:
        flags = [*inputs, "--reconstructions", 0]
    flags += ["--max_steps", 6, "--save_strategy", "steps", "--save_steps", 2, "--per_device_train_batch_size", 4,
              "--use_cpu", "--report_to", "none", "--disable_tqdm", True]  # fmt: skip
    whole, output = tmp_path / "whole", tmp_path / "stopped"
    assert run_example(script, "--output_dir", whole, *flags).codes == [0]
    ended = run_example(script, "--output_dir", output, *flags, *STOP, fault=partial(terminate_in_step, 3))
    assert ended.codes == [1] and "Stopped by SIGTERM after step 3 of 6" in ended.printed[0]
    assert (output / "checkpoint-3" / "trainer_state.json").is_file()
    assert not {"README.md", "results.json", "model.safetensors"} & {path.name for path in output.iterdir()}
    resumed = run_example(script, "--output_dir", output, *flags, *RESUME)
    assert resumed.codes == [0], resumed.printed
    expected, actual = (load_file(folder / "model.safetensors") for folder in (whole, output))
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
    if script == "finetune.py":
        results = [json.loads((folder / "results.json").read_text())["results"] for folder in (whole, output)]
        assert results[0]["eval_loss"] == results[1]["eval_loss"]


# --- in this process


class Signal(TrainerCallback):
    def __init__(self, event: str):
        setattr(self, event, lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM))


@pytest.fixture
def heard():
    """Signals that came to the handler that was there before training."""
    heard, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


def make(folder: Path, *callbacks: TrainerCallback) -> StageTrainer:
    set_seed(0)
    sizes = {
        "projector_hidden_size": 24,
        "projection_size": 16,
        "predictor_hidden_size": 32,
        "queue_size": 4,
        "topk": 1,
    }
    model = UaMixForContrastiveTuning.from_encoder(AudioMAEModel(CONFIG), **sizes)
    args = UaMixTrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, save_strategy="no", use_cpu=True, report_to="none",
        disable_tqdm=True, enable_jit_checkpoint=True, recipe="plastic",
    )  # fmt: skip
    return StageTrainer(model, args, log_mels(tones(8)[0]), EXTRACTOR, callbacks=callbacks)


@pytest.mark.parametrize("event", ["on_step_begin", "on_pre_optimizer_step", "on_step_end"])
def test_whenever_it_comes_in_a_step_the_checkpoint_is_of_its_end(tmp_path, heard, event):
    """transformers would save what is not the end of a step under its number."""
    whole = make(tmp_path / "whole")
    whole.train()
    with pytest.raises(RunStoppedError, match="after step 1 of 2"):
        make(tmp_path / "run", Signal(event)).train()
    assert heard == []
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]  # as before training
    resumed = make(tmp_path / "run")
    resumed.train("true")
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state_dict().items())
    assert resumed.state.global_step == 2


def test_a_signal_after_the_last_step_is_not_lost(tmp_path, heard):
    """Between the stages, for instance: who was to hear of it before training hears of it."""
    make(tmp_path, Signal("on_train_end")).train()
    assert heard == [signal.SIGTERM]


def test_a_trainer_that_does_not_train_leaves_signals_alone(tmp_path, heard):
    make(tmp_path)
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_a_checkpoint_that_nothing_goes_on_from_is_refused(tmp_path):
    with pytest.raises(ValueError, match="enable_jit_checkpoint: a checkpoint of save_only_model"):
        UaMixTrainingArguments(str(tmp_path), use_cpu=True, enable_jit_checkpoint=True, save_only_model=True)
