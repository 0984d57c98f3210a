"""transformers' Trainer with safe checkpoints: complete, of the same run, and saved where the run stopped."""

import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from .checkpoints import (
    RunCheckpointError,
    best_checkpoint,
    checkpoint_to_resume,
    last_complete_checkpoint,
    prepare_output_dir,
    remove_broken_checkpoints,
)
from .interruption import StopCallback
from .run_identity import (
    MAY_CHANGE_WITH_WARNING,
    AnotherRunError,
    arguments_identity,
    base_identity,
    check_identity,
    config_identity,
    data_identity,
    write_identity,
)


def abbreviate_names(names: list[str]) -> str:
    """Joins the first names for a message."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more weights" if len(names) > 4 else "")


class BestCheckpointCallback(TrainerCallback):
    """Corrects the path of a resumed run's best checkpoint, as its folder may have been moved."""

    def __init__(self, best: str | None):
        self.best = best

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        state.best_model_checkpoint = self.best


class ResumableTrainer(Trainer):
    """Trainer that resumes from checkpoints of its own run only, and stops with one.

    Raises:
        RunCheckpointError: A checkpoint cannot be written (a partial one is removed), the one to resume from is
            incomplete, or the output folder has checkpoints of another run.
        AnotherRunError: The checkpoint to resume from has other settings, data or base weights, or is of another model.
        RunStoppedError: SIGTERM with `enable_jit_checkpoint`; a checkpoint was saved.
    """

    may_change_with_warning = MAY_CHANGE_WITH_WARNING

    def __init__(self, *args, **kwargs):
        handler = signal.getsignal(signal.SIGTERM)
        super().__init__(*args, **kwargs)
        self.stop_callback: StopCallback | None = None
        if self.pop_callback(JITCheckpointCallback):
            signal.signal(signal.SIGTERM, handler)  # the handler that the callback replaced
            self.stop_callback = StopCallback(self)
            self.add_callback(self.stop_callback)
        self._identity: dict[str, Any] | None = None

    # --- resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> Any:
        """Train, as in transformers; but `True` passes broken checkpoints over, and starts afresh without any.

        A checkpoint of a finished run is only loaded: transformers would do a step more.

        Args:
            resume_from_checkpoint: Checkpoint to go on from, `True` for the newest complete one, or `False` for none;
                `args.resume_from_checkpoint` by default.
            *args: Further arguments of transformers' `Trainer.train`.
            **kwargs: Further arguments of transformers' `Trainer.train`.
        """
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        folder, overwrite = str(self.args.output_dir), getattr(self.args, "overwrite_output_dir", False)
        resume = checkpoint_to_resume(resume_from_checkpoint, [folder], overwrite)
        state = TrainerState()
        self._identity = None
        if resume:
            ignored = frozenset({"data_seed", "data.data_seed"} if self.args.ignore_data_skip else ())
            check_identity(resume, self.run_identity, self.may_change_with_warning, ignored)
            state = self.load_state(resume)
            *_, steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
            if state.global_step > steps:
                raise RunCheckpointError(f"{resume} is beyond the {steps} steps of this run: increase them.")
        own = resume and Path(resume).resolve().parent == Path(folder).resolve()
        with self.args.main_process_first(desc="earlier checkpoints"):
            prepare_output_dir(folder, state.global_step if own else None, overwrite)
        if resume and self.is_over(resume, state.global_step, steps):
            self._load_from_checkpoint(resume)
            self.state = state
            if self.args.load_best_model_at_end and state.best_model_checkpoint:
                self._load_best_model()
            return None
        if not resume:
            self.start()
        best = BestCheckpointCallback(state.best_model_checkpoint)
        self.add_callback(best)
        try:
            with self.stop_callback.listening() if self.stop_callback else nullcontext():
                return super().train(resume, *args, **kwargs)
        finally:
            self.remove_callback(best)

    def is_over(self, checkpoint: str, step: int, steps: int) -> bool:
        """Whether the run of a checkpoint, saved at a step of so many, has no more steps to make."""
        return step == steps

    def start(self) -> None:
        """Prepare the model for its first step; not called when a run resumes. Subclasses may replace it."""

    def load_state(self, checkpoint: str) -> TrainerState:
        """Loads the state of a checkpoint, with the current path of the best one.

        Raises:
            RunCheckpointError: The best checkpoint is missing, and the run would load it at its end.
        """
        state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        recorded = state.best_model_checkpoint
        state.best_model_checkpoint = best_checkpoint(checkpoint, state.best_global_step, recorded)
        if recorded and not state.best_model_checkpoint and self.args.load_best_model_at_end:
            raise RunCheckpointError(
                f"{Path(recorded).name}, the best checkpoint so far, is missing beside {checkpoint}: restore it, or "
                "start a new run."
            )
        return state

    def last_checkpoint(self) -> str | None:
        """Newest complete checkpoint of the run, or None."""
        return last_complete_checkpoint(str(self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._resumed_from = resume_from_checkpoint
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises an error where transformers warns, as missing weights would keep their random initialisation.

        Raises:
            AnotherRunError: The checkpoint lacks weights of this model, or has others.
        """
        model: Any = self.model
        state, missing = model.state_dict(), set(load_result.missing_keys)
        # A file has tied weights under one of their names.
        loaded = {state[name].data_ptr() for name in state.keys() - missing}
        missing = {name for name in missing if state[name].data_ptr() not in loaded}
        parts = (("lacks", sorted(missing)), ("holds", sorted(load_result.unexpected_keys)))
        found = [f"{verb} {abbreviate_names(names)}" for verb, names in parts if names]
        if found:
            raise AnotherRunError(
                f"{self._resumed_from} {' and '.join(found)}: they are weights of another model, or of another "
                "version of this package. Resume with that version, or start a new run in another output_dir."
            )

    # --- identity

    @property
    def run_identity(self) -> dict[str, Any]:
        """Result of [`identity`], computed once per run."""
        if self._identity is None:
            self._identity = self.identity()
        return self._identity

    def identity(self) -> dict[str, Any]:
        """Everything that determines what is learnt; a checkpoint must have the same identity to resume from it.

        Subclasses add their own entries.
        """
        model: Any = self.model
        config = model.config
        return {
            "trainer": type(self).__name__,
            "arguments": arguments_identity(self.args),
            "processes": self.args.world_size,
            "model": config_identity(config),
            "class_names": [config.id2label[number] for number in range(config.num_labels)],
            "base_model": base_identity(self.base_config()),
            "feature_extractor": config_identity(self.processing_class),
            "data": data_identity(self.train_dataset),
            # The best score so far is comparable only on the same clips.
            "eval_data": data_identity(self.eval_dataset) if self.args.load_best_model_at_end else None,
        }

    def base_config(self) -> Any:
        """Configuration of the model that training starts from, which has the path it was loaded from."""
        model: Any = self.model
        return model.config

    # --- saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            # Parts of an older run would make a half-written checkpoint look complete.
            shutil.rmtree(folder, ignore_errors=True)
            if self.args.save_total_limit and not self.args.save_only_model:
                remove_broken_checkpoints(run, after=self.state.global_step)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as problem:  # torch and safetensors raise no OSError
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            last, disk = self.last_checkpoint(), next(path for path in folder.absolute().parents if path.exists())
            raise RunCheckpointError(
                f"{folder} could not be saved: {problem}. It takes about {self.checkpoint_bytes() / 1e6:.1f} MB; "
                f"{shutil.disk_usage(disk).free / 1e6:.1f} MB are free there. "
                + (f"{last} is complete: make room and resume from it." if last else "No earlier one is complete.")
            ) from problem

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            write_identity(output_dir, self.run_identity)
        # The next file, trainer_state.json, marks the checkpoint as complete.
        self.accelerator.wait_for_everyone()

    def checkpoint_bytes(self) -> int:
        """Approximate size of a checkpoint: the weights and the optimiser's state."""
        model: Any = self.model
        optimizer: Any = self.optimizer
        states = [model.state_dict(), *optimizer.state.values()]
        return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))


__all__ = ["ResumableTrainer"]
