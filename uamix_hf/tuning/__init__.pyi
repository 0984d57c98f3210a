from .arguments import UaMixTrainingArguments
from .callbacks import KNNCallback, TargetUpdateCallback
from .configuration_uamix import METHOD_FIELDS, MIXES, UaMixConfig
from .guards import GuardCallback
from .modeling_uamix import UaMixForContrastiveTuning, UaMixOutput
from .models import make_model
from .trainer import StageTrainer, train_stages

__all__ = [
    "GuardCallback",
    "KNNCallback",
    "METHOD_FIELDS",
    "MIXES",
    "StageTrainer",
    "TargetUpdateCallback",
    "UaMixConfig",
    "UaMixForContrastiveTuning",
    "UaMixOutput",
    "UaMixTrainingArguments",
    "make_model",
    "train_stages",
]
