"""Flags of a script from a YAML file, for runs that others repeat."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..data import DataError


def with_config_file(arguments: Sequence[str]) -> list[str]:
    """Puts the flags of the file of `--config` before those of the command line, which therefore override them.

    Flags that add up, such as `--where`, hold together with those of the file.

    Args:
        arguments: Arguments of the command line, without the script's name.

    Raises:
        DataError: A file that is missing, or is no mapping of flags to values and lists of values.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    path = parser.parse_known_args(arguments)[0].config
    if path is None:
        return list(arguments)
    if not Path(path).is_file():
        raise DataError(f"--config {path}: there is no such file.")
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise DataError(f"{path} holds {type(entries).__name__}; lines such as 'label_column: label' are expected.")
    flags: list[str] = []
    for name, value in entries.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(one, (str, int, float)) for one in values):
            raise DataError(f"{path} has {name}: {value!r}; a value or a list of values is expected.")
        flags += [f"--{name}", *map(as_flag, values)]
    return [*flags, *arguments]


def as_flag(value: Any) -> str:
    """A value as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


__all__ = ["with_config_file"]
