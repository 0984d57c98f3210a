"""Checks of arguments that several parts of the package share."""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from numbers import Integral
from typing import Any


def checked_batch_size(size: Any) -> int:
    """Checks a batch size.

    Raises:
        ValueError: Not an integer of at least 1.
    """
    return checked_count("batch_size", size)


def checked_count(name: str, value: Any) -> int:
    """Checks a number of things of which there is at least one.

    Raises:
        ValueError: Not an integer of at least 1; the message has the name.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: an integer of at least 1 is needed.")
    return int(value)


def refuse_idle(arguments: Any, names: Iterable[str], effect: str) -> None:
    """Refuses arguments that would have no effect.

    Args:
        arguments: A dataclass.
        names: Fields that have no effect with the values of the others.
        effect: The argument that they go with, for the message.

    Raises:
        ValueError: One of them differs from its default.
    """
    known = {entry.name: entry for entry in fields(arguments)}

    def default(name: str) -> Any:
        entry = known[name]
        return entry.default if entry.default_factory is MISSING else entry.default_factory()

    if given := [name for name in names if getattr(arguments, name) != default(name)]:
        verb = "goes" if len(given) == 1 else "go"
        raise ValueError(f"{', '.join(given)}: without effect here, {verb} with {effect}.")


__all__ = ["checked_batch_size", "checked_count", "refuse_idle"]
