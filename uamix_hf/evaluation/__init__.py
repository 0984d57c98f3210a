"""How far few labels go in a space of frozen embeddings."""

from .few_shot import Accuracy, Episode, EpisodeError, draw_episodes, few_shot_accuracy, nearest_centroid
from .knn import leave_one_out_knn

__all__ = [
    "Accuracy",
    "Episode",
    "EpisodeError",
    "draw_episodes",
    "few_shot_accuracy",
    "leave_one_out_knn",
    "nearest_centroid",
]
