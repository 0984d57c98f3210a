"""The uaMix method: views, mixtures, support set, loss, and the trainer of its two stages; and a rival to it."""

from .callbacks import KNNCallback, TargetUpdateCallback
from .configuration_uamix import MIXES, UaMixConfig, uamix_arguments
from .encoders import EncoderAdapter, EncoderError
from .modeling_uamix import UaMixForContrastiveTuning, UaMixOutput
from .pseudo_labels import PSEUDO_LABELS_IGNORE, PseudoLabelTrainer, tune_on_pseudo_labels
from .trainer import UaMixTrainer, last_complete_checkpoint, train_stages
from .training_args import UaMixTrainingArguments

__all__ = [
    "MIXES",
    "PSEUDO_LABELS_IGNORE",
    "EncoderAdapter",
    "EncoderError",
    "KNNCallback",
    "PseudoLabelTrainer",
    "TargetUpdateCallback",
    "UaMixConfig",
    "UaMixForContrastiveTuning",
    "UaMixOutput",
    "UaMixTrainer",
    "UaMixTrainingArguments",
    "last_complete_checkpoint",
    "train_stages",
    "tune_on_pseudo_labels",
    "uamix_arguments",
]
