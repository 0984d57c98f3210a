"""Runs that are told to stop (`--enable_jit_checkpoint`): after the step, with a checkpoint, all processes alike."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback


class RunStoppedError(RuntimeError):
    """Training was stopped before its last step: what there is of it is no result."""


class StopCallback(TrainerCallback):
    """
    On SIGTERM, saves an ordinary checkpoint after the step and raises [`RunStoppedError`], so that nothing takes the
    weights for those of a finished run. transformers' own callback, which this one replaces, saves each process for
    itself, and between backward pass and optimiser step, from where no run can go on as if it had never stopped.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.asked = self.stopping = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        self.asked = self.stopping = False
        before = signal.signal(signal.SIGTERM, self.ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        if self.asked or self.stopping:  # after the last save: what comes next must not run as if nothing had been said
            signal.raise_signal(signal.SIGTERM)

    def ask(self, *signal_and_frame: Any) -> None:
        self.asked = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        asked = torch.tensor([self.asked], device=args.device)
        if self.trainer.accelerator.gather(asked).any():
            self.stopping = control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs) -> None:
        if self.stopping:
            raise RunStoppedError(
                f"Stopped by SIGTERM after step {state.global_step} of {state.max_steps}. "
                f"{self.trainer.last_checkpoint()} is complete: resume from it."
            )


__all__ = ["RunStoppedError", "StopCallback"]
