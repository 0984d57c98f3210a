"""The package's metrics for the `evaluate` library; they load from its folder, without a connection."""

from pathlib import Path
from typing import Any

METRICS = Path(__file__).parent


def metric_folder(name: str) -> Path:
    """Folder of a metric, which has its name.

    Raises:
        ValueError: there is no such metric.
    """
    names = sorted(path.parent.name for path in METRICS.glob("*/app.py"))
    if name not in names:
        raise ValueError(f"There is no metric {name!r}: there are {', '.join(names)}.")
    return METRICS / name


def load_metric(name: str) -> Any:
    """Load a metric of this package as an `evaluate.Metric`, which keeps its inputs in memory instead of on disk.

    Raises:
        ValueError: there is no such metric.
    """
    import evaluate  # here: whoever only asks for a folder need not wait for it

    return evaluate.load(str(metric_folder(name)), keep_in_memory=True)


__all__ = ["load_metric", "metric_folder"]
