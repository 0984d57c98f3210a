from .arguments import FineTuningArguments
from .configuration_classifier import EncoderClassifierConfig
from .data import FineTuningData, fine_tuning_data, unlabelled_clips
from .few_clips import FewClipsClassifier, Prediction
from .fixmatch import FixMatchArguments, FixMatchCollator, FixMatchTrainer
from .labels import LabelArguments, Targets, check_training_labels, draw_shots, read_targets, with_labels
from .metrics import make_compute_metrics, write_confusion_matrix
from .modeling_classifier import EncoderForAudioClassification
from .models import encoder_of, freeze, make_classifier
from .predictions import predict, predict_logits
from .pseudo_labels import PSEUDO_LABELS_IGNORE, PseudoLabelTrainer, tune_on_pseudo_labels
from .runs import fine_tune, fine_tuning_trainer, save_results
from .trained_head import copy_trained_head
from .trainer import FineTuningTrainer

__all__ = [
    "EncoderClassifierConfig",
    "EncoderForAudioClassification",
    "FewClipsClassifier",
    "FineTuningArguments",
    "FineTuningData",
    "FineTuningTrainer",
    "FixMatchArguments",
    "FixMatchCollator",
    "FixMatchTrainer",
    "LabelArguments",
    "PSEUDO_LABELS_IGNORE",
    "Prediction",
    "PseudoLabelTrainer",
    "Targets",
    "check_training_labels",
    "copy_trained_head",
    "draw_shots",
    "encoder_of",
    "fine_tune",
    "fine_tuning_data",
    "fine_tuning_trainer",
    "freeze",
    "make_classifier",
    "make_compute_metrics",
    "predict",
    "predict_logits",
    "read_targets",
    "save_results",
    "tune_on_pseudo_labels",
    "unlabelled_clips",
    "with_labels",
    "write_confusion_matrix",
]
