"""Checks of arguments that several parts of the package take."""

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


__all__ = ["checked_batch_size"]
