"""Checks of arguments that several parts of the package take."""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from numbers import Integral
from typing import Any


def checked_batch_size(size: Any) -> int:
    """
    Raises:
        ValueError: no whole number of at least 1.
    """
    if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
        raise ValueError(f"batch_size={size!r}: a whole number of at least 1.")
    return int(size)


def refuse_idle(arguments: Any, names: Iterable[str], effect: str) -> None:
    """
    Args:
        arguments: A dataclass. names: Its fields that have no effect as the others are. effect: What they go with.

    Raises:
        ValueError: one of them is not at its default.
    """
    known = {entry.name: entry for entry in fields(arguments)}

    def default(name: str) -> Any:
        entry = known[name]
        return entry.default if entry.default_factory is MISSING else entry.default_factory()

    if given := [name for name in names if getattr(arguments, name) != default(name)]:
        verb = "goes" if len(given) == 1 else "go"
        raise ValueError(f"{', '.join(given)}: without effect here, {verb} with {effect}.")


__all__ = ["checked_batch_size", "refuse_idle"]
