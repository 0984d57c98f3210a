from .checks import EvaluationError
from .knn import leave_one_out_knn
from .modules import load_metric

__all__ = [
    "EvaluationError",
    "leave_one_out_knn",
    "load_metric",
]
