"""Supervised fine-tuning: an encoder and a linear layer on its pooled output, trained together on labelled clips."""

from .arguments import FineTuningArguments
from .fixmatch import FixMatchArguments, FixMatchCollator, FixMatchTrainer, unlabelled_clips
from .labels import LabelArguments, Targets, check_training_labels, draw_shots, read_targets, with_labels
from .models import freeze, make_classifier, with_random_weights
from .predictions import embed_log_mels, predict, predict_logits
from .trainer import FineTuningTrainer, fine_tune

__all__ = [
    "FineTuningArguments",
    "FineTuningTrainer",
    "FixMatchArguments",
    "FixMatchCollator",
    "FixMatchTrainer",
    "LabelArguments",
    "Targets",
    "check_training_labels",
    "draw_shots",
    "embed_log_mels",
    "fine_tune",
    "freeze",
    "make_classifier",
    "predict",
    "predict_logits",
    "read_targets",
    "unlabelled_clips",
    "with_labels",
    "with_random_weights",
]
