"""Attributes that have other values for the time of one pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def overridden(target: Any, **values: Any) -> Iterator[None]:
    """Sets attributes, and sets them back at the end: what is saved keeps its own.

    ```python
    with overridden(encoder.config, apply_spec_augment=False, layerdrop=0.0):
        output = encoder(...)
    ```

    Args:
        target: A module, a configuration, or anything else.
        **values: Values of its attributes.
    """
    before = {name: getattr(target, name) for name in values}
    for name, value in values.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


__all__ = ["overridden"]
