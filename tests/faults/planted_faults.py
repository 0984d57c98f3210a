"""What may befall the processes that run an example."""

import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from processes import run_example  # noqa: F401  beside the faults, for tests that plant them

# Faults are partial functions of their arguments.


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(stage: str, step: int, rank: int = 0) -> None:
    """SIGKILL between the forward and the backward pass of a step, whose clips the neighbour queue has taken in."""
    from uamix_hf.tuning import StageTrainer

    compute_loss = StageTrainer.compute_loss

    def compute_loss_and_die(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(self, *args, **kwargs)
        if (self.model.stage, self.state.global_step + 1, self.args.process_index) == (stage, step, rank):
            die()
        return loss

    StageTrainer.compute_loss = compute_loss_and_die  # type: ignore[method-assign]


def kill_in_save(file: str) -> None:
    """SIGKILL when half of a checkpoint's file, `checkpoint-6/optimizer.pt`, is written."""
    import torch
    from transformers import TrainerState, modeling_utils

    def die_halfway(write: Callable) -> Callable:
        def write_half(data: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            write(data, path, *args, **kwargs)
            if str(path).endswith(f"/{file}"):
                os.truncate(path, os.path.getsize(path) // 2)
                die()

        return write_half

    modeling_utils.safe_save_file = die_halfway(modeling_utils.safe_save_file)
    torch.save = die_halfway(torch.save)
    TrainerState.save_to_json = die_halfway(TrainerState.save_to_json)  # type: ignore[method-assign]


def refuse_bytes(step: int, most: int) -> None:
    """From the save of a step on, the system lets no file grow beyond this many bytes."""
    from transformers import Trainer

    save = Trainer._save_checkpoint

    def save_on_full_disk(self: Any, *args: Any) -> None:
        if self.state.global_step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        save(self, *args)

    Trainer._save_checkpoint = save_on_full_disk  # type: ignore[method-assign]


def spoil_clip(clip: int, after: int) -> None:
    """After so many steps of a stage, one clip's log-mels are NaN, as by a broken memory."""
    from uamix_hf.training.trainer import LengthBucketTrainer

    step = LengthBucketTrainer.training_step

    def spoilt_step(self: Any, model: Any, inputs: Any, *args: Any) -> Any:
        if self.state.global_step >= after:
            inputs["input_values"][inputs["sample_id"] == clip] = float("nan")
        return step(self, model, inputs, *args)

    LengthBucketTrainer.training_step = spoilt_step  # type: ignore[method-assign]


def terminate_in_step(step: int, stage: str | None = None, rank: int = 0) -> None:
    """SIGTERM, as a scheduler sends it, within a step (of a stage of tuning)."""
    from uamix_hf.training.trainer import LengthBucketTrainer

    training_step = LengthBucketTrainer.training_step

    def terminated_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        place = (getattr(self.model, "stage", None), self.state.global_step + 1, self.args.process_index)
        if place == (stage, step, rank):
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, *args, **kwargs)

    LengthBucketTrainer.training_step = terminated_step  # type: ignore[method-assign]
