"""transformers' Trainer with care for its checkpoints: they are whole, of this run alone, and where the run stopped."""

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
    make_way,
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


def shown_names(names: list[str]) -> str:
    """The first few of many."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more weights" if len(names) > 4 else "")


class BestCheckpointCallback(TrainerCallback):
    """Tells a resumed run where its best checkpoint is: the path in its state is of before the folder was moved."""

    def __init__(self, best: str | None):
        self.best = best

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        state.best_model_checkpoint = self.best


class ResumableTrainer(Trainer):
    """
    Goes on from checkpoints of its own run alone, and stops with one.

    Raises:
        RunCheckpointError: a checkpoint cannot be written (what there is of it is removed), or the one to resume from
            is not whole; or the output folder holds those of another run.
        AnotherRunError: the checkpoint to resume from was made by other settings or from other data, or its weights
            are of another model.
        RunStoppedError: SIGTERM, with `enable_jit_checkpoint`; there is a checkpoint.
    """

    may_change_with_warning = MAY_CHANGE_WITH_WARNING

    def __init__(self, *args, **kwargs):
        handler = signal.getsignal(signal.SIGTERM)
        super().__init__(*args, **kwargs)
        self.stop_callback: StopCallback | None = None
        if self.pop_callback(JITCheckpointCallback):
            signal.signal(signal.SIGTERM, handler)  # which that callback has replaced
            self.stop_callback = StopCallback(self)
            self.add_callback(self.stop_callback)
        self._identity: dict[str, Any] | None = None

    # --- going on

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
                raise RunCheckpointError(f"{resume} is beyond the {steps} steps that are asked for: ask for more.")
        own = resume and Path(resume).resolve().parent == Path(folder).resolve()
        with self.args.main_process_first(desc="earlier checkpoints"):
            make_way(folder, state.global_step if own else 0, overwrite)
        if resume and state.global_step == steps:
            self._load_from_checkpoint(resume)
            self.state = state
            if self.args.load_best_model_at_end and state.best_model_checkpoint:
                self._load_best_model()
            return None
        best = BestCheckpointCallback(state.best_model_checkpoint)
        self.add_callback(best)
        try:
            with self.stop_callback.listening() if self.stop_callback else nullcontext():
                return super().train(resume, *args, **kwargs)
        finally:
            self.remove_callback(best)

    def load_state(self, checkpoint: str) -> TrainerState:
        """State of a checkpoint, with the place that the best one has now.

        Raises:
            RunCheckpointError: the run would end with the best checkpoint, and it is gone.
        """
        state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        recorded = state.best_model_checkpoint
        state.best_model_checkpoint = best_checkpoint(checkpoint, state.best_global_step, recorded)
        if recorded and not state.best_model_checkpoint and self.args.load_best_model_at_end:
            raise RunCheckpointError(
                f"{Path(recorded).name}, the best yet, is gone from beside {checkpoint}: put it there, or start afresh."
            )
        return state

    def last_checkpoint(self) -> str | None:
        """What the run can go on from if it stops now."""
        return last_complete_checkpoint(str(self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._resumed_from = resume_from_checkpoint
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """An error where transformers warns: the run would go on with what the missing weights were initialised with.

        Raises:
            AnotherRunError: the checkpoint does not hold the weights of this model and no others.
        """
        model: Any = self.model
        state, missing = model.state_dict(), set(load_result.missing_keys)
        # Of weights that are one tensor under several names, a file holds one.
        loaded = {state[name].data_ptr() for name in state.keys() - missing}
        missing = {name for name in missing if state[name].data_ptr() not in loaded}
        parts = (("lacks", sorted(missing)), ("holds", sorted(load_result.unexpected_keys)))
        found = [f"{verb} {shown_names(names)}" for verb, names in parts if names]
        if found:
            raise AnotherRunError(
                f"{self._resumed_from} {' and '.join(found)}: they are weights of another model, or of another "
                "version of this package. Go on with that version, or start afresh in another output_dir."
            )

    # --- what it is

    @property
    def run_identity(self) -> dict[str, Any]:
        """What [`identity`] says, once in a run."""
        if self._identity is None:
            self._identity = self.identity()
        return self._identity

    def identity(self) -> dict[str, Any]:
        """All that decides what is learnt: what a checkpoint must have been made by for this run to go on from it.
        Subclasses add what they alone have."""
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
            # Scores of others would be compared with the best so far.
            "eval_data": data_identity(self.eval_dataset) if self.args.load_best_model_at_end else None,
        }

    def base_config(self) -> Any:
        """Configuration of what training starts from, which says where it was loaded."""
        model: Any = self.model
        return model.config

    # --- saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            # Parts of an older run would make a half-written checkpoint look whole.
            shutil.rmtree(folder, ignore_errors=True)
            if self.args.save_total_limit and not self.args.save_only_model:
                remove_broken_checkpoints(run, after=self.state.global_step)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as problem:  # torch and safetensors have no OSError
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
        # What comes next, trainer_state.json, says that the checkpoint is complete.
        self.accelerator.wait_for_everyone()

    def checkpoint_bytes(self) -> int:
        """About what a checkpoint takes: the weights and the optimiser's state."""
        model: Any = self.model
        optimizer: Any = self.optimizer
        states = [model.state_dict(), *optimizer.state.values()]
        return sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))


__all__ = ["ResumableTrainer"]
