from .arguments import FineTuningArguments
from .fixmatch import FixMatchArguments, FixMatchCollator, FixMatchTrainer, unlabelled_clips
from .labels import LabelArguments, Targets, check_training_labels, draw_shots, read_targets, with_labels
from .models import freeze, make_classifier
from .predictions import predict, predict_logits
from .pseudo_labels import PSEUDO_LABELS_IGNORE, PseudoLabelTrainer, tune_on_pseudo_labels
from .trainer import FineTuningTrainer, fine_tune

__all__ = [
    "FineTuningArguments",
    "FineTuningTrainer",
    "FixMatchArguments",
    "FixMatchCollator",
    "FixMatchTrainer",
    "LabelArguments",
    "PSEUDO_LABELS_IGNORE",
    "PseudoLabelTrainer",
    "Targets",
    "check_training_labels",
    "draw_shots",
    "fine_tune",
    "freeze",
    "make_classifier",
    "predict",
    "predict_logits",
    "read_targets",
    "tune_on_pseudo_labels",
    "unlabelled_clips",
    "with_labels",
]
