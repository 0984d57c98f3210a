from .arguments import UaMixTrainingArguments
from .callbacks import KNNCallback, TargetUpdateCallback
from .configuration_uamix import METHOD_FIELDS, MIXES, UaMixConfig
from .embedder import AdaptedEmbedder
from .modeling_uamix import UaMixForContrastiveTuning, UaMixOutput
from .models import make_model
from .trainer import StageTrainer, train_stages
from .whitening import check_whitening, fit_whitening

__all__ = [
    "AdaptedEmbedder",
    "KNNCallback",
    "METHOD_FIELDS",
    "MIXES",
    "StageTrainer",
    "TargetUpdateCallback",
    "UaMixConfig",
    "UaMixForContrastiveTuning",
    "UaMixOutput",
    "UaMixTrainingArguments",
    "check_whitening",
    "fit_whitening",
    "make_model",
    "train_stages",
]
