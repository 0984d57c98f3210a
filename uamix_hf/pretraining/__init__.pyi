from .arguments import PretrainingArguments
from .callbacks import SettingsCallback, plot_at_checkpoints
from .data import PretrainingData, pretraining_data
from .held_out import HeldOutCollator, masking_noise
from .models import IncompatibleCheckpointError, PretrainingModelArguments, pretraining_model
from .trainer import PretrainingTrainer

__all__ = [
    "HeldOutCollator",
    "IncompatibleCheckpointError",
    "PretrainingArguments",
    "PretrainingData",
    "PretrainingModelArguments",
    "PretrainingTrainer",
    "SettingsCallback",
    "masking_noise",
    "plot_at_checkpoints",
    "pretraining_data",
    "pretraining_model",
]
