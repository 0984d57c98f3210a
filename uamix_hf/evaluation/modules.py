"""The package's modules of `evaluate`; they load from its folder, without a connection."""

from pathlib import Path

import evaluate

METRICS = Path(__file__).parent / "metrics"


def metric_folder(name: str) -> Path:
    """Folder of a module, which has its name.

    Raises:
        ValueError: there is no such module.
    """
    names = sorted(path.parent.name for path in METRICS.glob("*/app.py"))
    if name not in names:
        raise ValueError(f"There is no metric {name!r}: there are {', '.join(names)}.")
    return METRICS / name


def load_metric(name: str) -> evaluate.Metric:
    """A module by its name; it keeps what it is given in memory instead of on disk.

    Raises:
        ValueError: there is no such module.
    """
    return evaluate.load(str(metric_folder(name)), keep_in_memory=True)


__all__ = ["load_metric", "metric_folder"]
