from .arguments import ProtocolArguments
from .classifiers import CLASSIFIERS, logistic_regression, nearest_centroid
from .comparison import ComparedMeasurement, TuningEvaluation
from .config_files import with_config_file
from .embeddings import cached_embeddings, embed_recordings
from .encoders import evaluate_encoders
from .few_shot import Episode, EpisodeError, draw_episodes, few_shot_accuracy
from .fine_tuning import fine_tune_low_shot
from .low_shot import low_shot_accuracy
from .plots import LabelCurves, plot_class_gains, plot_embeddings, plot_label_curves
from .probes import average_precisions, knn_probe, linear_probe
from .protocols import Measurement, evaluate_embeddings, protocol_splits
from .report import Plot, write_plots, write_report
from .results import result_tree
from .scores import Difference, Scores, bootstrap_mean, paired_difference
from .splits import SplitError, check_split, make_splits
from .tables import Table, class_table, confusion_table, score_table

__all__ = [
    "CLASSIFIERS",
    "ComparedMeasurement",
    "Difference",
    "Episode",
    "EpisodeError",
    "LabelCurves",
    "Measurement",
    "Plot",
    "ProtocolArguments",
    "Scores",
    "SplitError",
    "Table",
    "TuningEvaluation",
    "average_precisions",
    "bootstrap_mean",
    "cached_embeddings",
    "check_split",
    "class_table",
    "confusion_table",
    "draw_episodes",
    "embed_recordings",
    "evaluate_embeddings",
    "evaluate_encoders",
    "few_shot_accuracy",
    "fine_tune_low_shot",
    "knn_probe",
    "linear_probe",
    "logistic_regression",
    "low_shot_accuracy",
    "make_splits",
    "nearest_centroid",
    "paired_difference",
    "plot_class_gains",
    "plot_embeddings",
    "plot_label_curves",
    "protocol_splits",
    "result_tree",
    "score_table",
    "with_config_file",
    "write_plots",
    "write_report",
]
