"""The package's modules of `evaluate`; they load from its folder, without a connection."""

import importlib
import sys
from pathlib import Path
from typing import Any

METRICS = Path(__file__).parent


def metric_folder(name: str) -> Path:
    """Folder of a module, which has its name.

    Raises:
        ValueError: there is no such module.
    """
    names = sorted(path.parent.name for path in METRICS.glob("*/app.py"))
    if name not in names:
        raise ValueError(f"There is no metric {name!r}: there are {', '.join(names)}.")
    return METRICS / name


def evaluate_library() -> Any:
    """The library `evaluate`, even where the folder of the script that runs has an `evaluate.py` of its own, which
    Python would import in its place: `examples/` has one."""
    if not hasattr(sys.modules.get("evaluate"), "load"):
        sys.modules.pop("evaluate", None)
        path = list(sys.path)
        sys.path[:] = [folder for folder in path if not (Path(folder) / "evaluate.py").is_file()]
        try:
            importlib.import_module("evaluate")
        finally:
            sys.path[:] = path
    return sys.modules["evaluate"]


def load_metric(name: str) -> Any:
    """An `evaluate.Metric` by its name; it keeps what it is given in memory instead of on disk.

    Raises:
        ValueError: there is no such module.
    """
    return evaluate_library().load(str(metric_folder(name)), keep_in_memory=True)


__all__ = ["load_metric", "metric_folder"]
