"""Stopping runs by SIGTERM (`--enable_jit_checkpoint`): after the step, with a checkpoint, on all processes."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback


class RunStoppedError(RuntimeError):
    """Training was stopped before its last step; its weights are not a result."""


class StopCallback(TrainerCallback):
    """Saves a checkpoint after the step on SIGTERM and raises [`RunStoppedError`].

    So the weights are not mistaken for those of a finished run. It replaces transformers' own callback, which saves on
    each process independently, and between backward pass and optimiser step, from where no run resumes exactly.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.requested = self.stopping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context in which SIGTERM is handled."""
        self.requested = self.stopping = False
        before = signal.signal(signal.SIGTERM, self.request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        if self.requested or self.stopping:  # after the last save: what comes next must be stopped as well
            signal.raise_signal(signal.SIGTERM)

    def request(self, *signal_and_frame: Any) -> None:
        """Handler of the signal."""
        self.requested = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        requested = torch.tensor([self.requested], device=args.device)
        if self.trainer.accelerator.gather(requested).any():
            self.stopping = control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs) -> None:
        if self.stopping:
            raise RunStoppedError(
                f"Stopped by SIGTERM after step {state.global_step} of {state.max_steps}. "
                f"{self.trainer.last_checkpoint()} is complete: resume from it."
            )


__all__ = ["RunStoppedError", "StopCallback"]
