from .arguments import UaMixTrainingArguments
from .callbacks import KNNCallback, TargetUpdateCallback
from .configuration_uamix import MIXES, UaMixConfig, uamix_arguments
from .modeling_uamix import UaMixForContrastiveTuning, UaMixOutput
from .trainer import UaMixTrainer, train_stages
from .whitening import fit_whitening

__all__ = [
    "KNNCallback",
    "MIXES",
    "TargetUpdateCallback",
    "UaMixConfig",
    "UaMixForContrastiveTuning",
    "UaMixOutput",
    "UaMixTrainer",
    "UaMixTrainingArguments",
    "fit_whitening",
    "train_stages",
    "uamix_arguments",
]
