from .classifiers import CLASSIFIERS, logistic_regression, nearest_centroid
from .embeddings import cached_embeddings
from .few_shot import Episode, EpisodeError, draw_episodes, few_shot_accuracy
from .low_shot import low_shot_accuracy
from .probes import knn_probe, linear_probe
from .scores import Difference, Scores, bootstrap_mean, paired_difference
from .splits import SplitError, check_split, make_splits

__all__ = [
    "CLASSIFIERS",
    "Difference",
    "Episode",
    "EpisodeError",
    "Scores",
    "SplitError",
    "bootstrap_mean",
    "cached_embeddings",
    "check_split",
    "draw_episodes",
    "few_shot_accuracy",
    "knn_probe",
    "linear_probe",
    "logistic_regression",
    "low_shot_accuracy",
    "make_splits",
    "nearest_centroid",
    "paired_difference",
]
