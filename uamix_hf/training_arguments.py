"""What the arguments of all kinds of training have in common."""

import os
from dataclasses import dataclass, field

from transformers import TrainingArguments


def choose_backend(args: TrainingArguments) -> None:
    """Processes without a GPU talk through gloo: the default, nccl, needs one. To be called before `__post_init__`."""
    if args.use_cpu and args.ddp_backend is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        args.ddp_backend = "gloo"


@dataclass
class RunArguments(TrainingArguments):
    """transformers' arguments, and those of this package that are of no kind of training alone.

    Raises:
        ValueError: two that contradict each other.
    """

    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Whether to remove the checkpoints of an earlier run from the output folder: without this, a run "
            "does not start where there are any."
        },
    )

    def __post_init__(self) -> None:
        choose_backend(self)
        super().__post_init__()
        if self.enable_jit_checkpoint and self.save_only_model:
            raise ValueError("enable_jit_checkpoint: a checkpoint of save_only_model cannot be resumed from. Give one.")


__all__ = ["RunArguments", "choose_backend"]
