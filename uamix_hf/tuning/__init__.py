"""The uaMix method: views, mixtures, support set, loss, and the trainer of its two stages."""

from .callbacks import KNNCallback, TargetUpdateCallback
from .configuration_uamix import MIXES, UaMixConfig, uamix_arguments
from .encoders import EncoderAdapter, EncoderError
from .modeling_uamix import UaMixForContrastiveTuning, UaMixOutput
from .trainer import UaMixTrainer, last_complete_checkpoint, train_stages
from .training_args import UaMixTrainingArguments

__all__ = [
    "MIXES",
    "EncoderAdapter",
    "EncoderError",
    "KNNCallback",
    "TargetUpdateCallback",
    "UaMixConfig",
    "UaMixForContrastiveTuning",
    "UaMixOutput",
    "UaMixTrainer",
    "UaMixTrainingArguments",
    "last_complete_checkpoint",
    "train_stages",
    "uamix_arguments",
]
