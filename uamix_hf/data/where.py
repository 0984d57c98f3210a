"""Conditions `COLUMN=VALUE[,VALUE...]` on rows, of a table and of a stream."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features

from .metadata import DataError, as_text, first_few

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """
    Args:
        text: As it was given. values: Of which a row must have one, as [`as_text`] gives them.
    """

    text: str
    column: str
    values: tuple[str, ...]


def conditions_of(texts: Sequence[str]) -> list[Condition]:
    """Values that hold a comma stand between double quotes: `label="Bark, woof",Meow`.

    Raises:
        DataError: a condition of another form.
    """
    found = []
    for text in texts:
        column, equals, values = text.partition("=")
        if not equals:
            raise DataError(f"{text!r} is not of the form COLUMN=VALUE[,VALUE...].")
        parts = next(csv.reader([values], skipinitialspace=True)) or [""]
        found.append(Condition(text, column, tuple(as_text(part, text) for part in parts)))
    return found


def value_as_text(value: Any, column: str, feature: Any = None) -> str:
    """A value of a column as text; a class number becomes its name, none and -1, as `datasets` marks none, empty."""
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        value = feature.int2str(value) if value >= 0 else None
    return as_text(value, f"Column {column!r}")


def column_as_text(table: Dataset, column: str) -> list[str]:
    """Values of a column as text, without space around them and composed (NFC), so that what reads alike is alike.

    Raises:
        DataError: no such column, or it holds neither text nor numbers.
    """
    if column not in table.column_names:
        raise DataError(f"There is no column {column!r}, only {', '.join(table.column_names)}.")
    return [value_as_text(value, column, table.features[column]) for value in table[column]]


def check_values(tables: Sequence[Dataset], conditions: Sequence[Condition]) -> None:
    """
    Raises:
        DataError: a value that no row of the tables has, or a missing column.
    """
    for condition in conditions:
        present = {text for table in tables for text in column_as_text(table, condition.column)}
        absent = [value for value in condition.values if value not in present]
        if absent:
            raise no_row(condition, absent, present)


def no_row(condition: Condition, absent: Sequence[str], present: Sequence[str] | set[str]) -> DataError:
    what = f"{condition.column}={','.join(absent)}"
    of = "" if what == condition.text else f", as {condition.text} says"
    return DataError(f"No row has {what}{of}; {condition.column} is {first_few(sorted(present), 20)}.")


def matching_rows(table: Dataset, conditions: Sequence[Condition]) -> list[int]:
    """Numbers of the rows that meet all conditions.

    Raises:
        DataError: a missing column, or no such row.
    """
    rows = list(range(len(table)))
    for condition in conditions:
        texts = column_as_text(table, condition.column)
        present = {texts[row] for row in rows}
        rows = [row for row in rows if texts[row] in condition.values]
        if not rows:
            raise no_row(condition, condition.values, present)
    return rows


def rows_where(table: Dataset, conditions: Sequence[str]) -> list[int]:
    """Numbers of the rows that meet all conditions `COLUMN=VALUE[,VALUE...]`, compared as text.

    Raises:
        DataError: a condition of another form, a missing column, a value that no row has, or no row that meets all.
    """
    parsed = conditions_of(conditions)
    check_values([table], parsed)
    return matching_rows(table, parsed)


class StreamConditions:
    """Conditions on the rows of streams. Which values there are is known of classes; of other columns it shows in the
    first pass, in which the workers of a loader mark what they met.

    Raises:
        DataError: a condition of another form.
    """

    def __init__(self, texts: Sequence[str]):
        self.conditions = conditions_of(texts)
        self.streams: list[Features] = []
        self.wanted = [(condition, value) for condition in self.conditions for value in condition.values]
        self.met = torch.zeros(len(self.wanted), dtype=torch.bool).share_memory_()
        self.told = torch.zeros(1, dtype=torch.bool).share_memory_()

    def add_stream(self, name: str, features: Features) -> None:
        """
        Raises:
            DataError: a missing column.
        """
        for condition in self.conditions:
            if condition.column not in features:
                raise DataError(f"{name} has no column {condition.column!r}, only {', '.join(features)}.")
        self.streams.append(features)

    def check_classes(self) -> None:
        """
        Raises:
            DataError: a value that is none of the classes of any stream.
        """
        for condition in self.conditions:
            features = [stream[condition.column] for stream in self.streams]
            if all(isinstance(feature, ClassLabel) for feature in features):
                names = {as_text(name, condition.column) for feature in features for name in feature.names}
                absent = [value for value in condition.values if value and value not in names]
                if absent:
                    raise no_row(condition, absent, names)

    def meets(self, row: Mapping[str, Any], features: Features) -> bool:
        texts = {each.column: value_as_text(row[each.column], each.column, features[each.column])
                 for each in self.conditions}  # fmt: skip
        for number, (condition, value) in enumerate(self.wanted):
            if texts[condition.column] == value:
                self.met[number] = True
        return all(texts[each.column] in each.values for each in self.conditions)

    def unmet(self) -> list[str]:
        """Values that no row had so far."""
        marked = zip(self.wanted, self.met.tolist(), strict=True)
        return [f"{condition.column}={value}" for (condition, value), met in marked if not met]

    def warn_unmet(self) -> None:
        """To be called when all workers have ended a pass; only the first call says anything."""
        if not self.told.item():
            self.told[0] = True
            if unmet := self.unmet():
                logger.warning("No row that this process has read has %s, of --where.", ", ".join(unmet))


__all__ = ["StreamConditions", "check_values", "column_as_text", "conditions_of", "matching_rows", "rows_where"]
