"""What a pretraining run records: its settings, and plots of reconstructions at each checkpoint."""

import dataclasses
import json
import logging
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from .data import PretrainingData
from .trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


class SettingsCallback(TrainerCallback):
    """Writes all settings, with the learning rate that follows from them, to `output_dir/arguments.json`.

    When training begins: the output folder is known to be this run's then.

    Args:
        *parts: Dataclasses with settings beside the training arguments.
    """

    def __init__(self, *parts: Any):
        self.parts = parts

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            values = {name: value for part in self.parts for name, value in dataclasses.asdict(part).items()}
            text = json.dumps(values | args.to_dict(), indent=2, default=str)
            (Path(str(args.output_dir)) / "arguments.json").write_text(text + "\n")


def plot_at_checkpoints(trainer: PretrainingTrainer, data: PretrainingData, clips: int) -> None:
    """Plot reconstructions of a few clips at each checkpoint: held-out ones, or else training clips.

    Without matplotlib, a warning says so.

    Args:
        trainer: Gets the callback.
        data: Of [`pretraining_data`].
        clips: Number of clips; 0 for no plots.
    """
    if clips == 0:
        return
    if find_spec("matplotlib") is None:
        logger.warning("No plots of reconstructions: they need matplotlib, pip install 'uamix_hf[demo]'.")
        return
    from .reconstructions import ReconstructionCallback

    source = data.sample() if data.held_out is None else data.held_out
    if isinstance(source, Dataset):  # clips of one class often follow one another
        source = source.select(range(0, len(source), max(1, len(source) // clips)))
    trainer.add_callback(ReconstructionCallback(trainer, list(islice(source, clips))))


__all__ = ["SettingsCallback", "plot_at_checkpoints"]
