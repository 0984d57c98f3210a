"""Conditions `COLUMN=VALUE[,VALUE...]` on the rows of tables and streams."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features

from .metadata import DataError, abbreviate, as_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """A condition on rows.

    Args:
        text: The condition as it was given.
        column: Name of the column.
        values: The row must have one of these values, normalised by [`as_text`].
    """

    text: str
    column: str
    values: tuple[str, ...]


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """Parses conditions `COLUMN=VALUE[,VALUE...]`.

    Values with a comma are put in double quotes: `label="Bark, woof",Meow`.

    Raises:
        DataError: A condition of another form.
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
    """Converts a value of a column to text: class numbers to names; None and class -1 to an empty string."""
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        value = feature.int2str(value) if value >= 0 else None
    return as_text(value, f"Column {column!r}")


def column_as_text(table: Dataset, column: str) -> list[str]:
    """Values of a column as text, without surrounding space and in Unicode's NFC.

    Raises:
        DataError: No such column, or one with neither text nor numbers.
    """
    if column not in table.column_names:
        raise DataError(f"There is no column {column!r}, only {', '.join(table.column_names)}.")
    return [value_as_text(value, column, table.features[column]) for value in table[column]]


def check_values(tables: Sequence[Dataset], conditions: Sequence[Condition]) -> None:
    """Checks that each value of the conditions occurs in the tables.

    Raises:
        DataError: A value that no row of the tables has, or a missing column.
    """
    for condition in conditions:
        present = {text for table in tables for text in column_as_text(table, condition.column)}
        absent = [value for value in condition.values if value not in present]
        if absent:
            raise no_row_error(condition, absent, present)


def no_row_error(condition: Condition, absent: Sequence[str], present: Sequence[str] | set[str]) -> DataError:
    """Error for values of a condition that no row has."""
    what = f"{condition.column}={','.join(absent)}"
    of = "" if what == condition.text else f", as in {condition.text}"
    return DataError(f"No row has {what}{of}; {condition.column} is {abbreviate(sorted(present), 20)}.")


def matching_rows(table: Dataset, conditions: Sequence[Condition]) -> list[int]:
    """Numbers of the rows that meet all conditions.

    Raises:
        DataError: A missing column, or no such row.
    """
    rows = list(range(len(table)))
    for condition in conditions:
        texts = column_as_text(table, condition.column)
        present = {texts[row] for row in rows}
        rows = [row for row in rows if texts[row] in condition.values]
        if not rows:
            raise no_row_error(condition, condition.values, present)
    return rows


def rows_where(table: Dataset, conditions: Sequence[str]) -> list[int]:
    """Numbers of the rows that meet all conditions `COLUMN=VALUE[,VALUE...]`, compared as text.

    Raises:
        DataError: A condition of another form, a missing column, a value that no row has, or no row that meets all.
    """
    parsed = parse_conditions(conditions)
    check_values([table], parsed)
    return matching_rows(table, parsed)


class StreamConditions:
    """Conditions on the rows of streams.

    The values of class columns are known beforehand; those of other columns only after the first pass, in which the
    loader's workers mark the values that occur.

    Args:
        texts: Conditions `COLUMN=VALUE[,VALUE...]`.

    Raises:
        DataError: A condition of another form.
    """

    def __init__(self, texts: Sequence[str]):
        self.conditions = parse_conditions(texts)
        self.streams: list[Features] = []
        self.wanted = [(condition, value) for condition in self.conditions for value in condition.values]
        self.met = torch.zeros(len(self.wanted), dtype=torch.bool).share_memory_()
        self.warned = torch.zeros(1, dtype=torch.bool).share_memory_()

    def add_stream(self, name: str, features: Features) -> None:
        """Adds a stream that the conditions filter.

        Raises:
            DataError: A missing column.
        """
        for condition in self.conditions:
            if condition.column not in features:
                raise DataError(f"{name} has no column {condition.column!r}, only {', '.join(features)}.")
        self.streams.append(features)

    def check_classes(self) -> None:
        """Checks the values of conditions on class columns.

        Raises:
            DataError: A value that is not a class of any stream.
        """
        for condition in self.conditions:
            features = [stream[condition.column] for stream in self.streams]
            if all(isinstance(feature, ClassLabel) for feature in features):
                names = {as_text(name, condition.column) for feature in features for name in feature.names}
                absent = [value for value in condition.values if value and value not in names]
                if absent:
                    raise no_row_error(condition, absent, names)

    def meets(self, row: Mapping[str, Any], features: Features) -> bool:
        """Whether a row meets all conditions; marks the values that it has."""
        texts = {each.column: value_as_text(row[each.column], each.column, features[each.column])
                 for each in self.conditions}  # fmt: skip
        for number, (condition, value) in enumerate(self.wanted):
            if texts[condition.column] == value:
                self.met[number] = True
        return all(texts[each.column] in each.values for each in self.conditions)

    def unmet(self) -> list[str]:
        """Values that no row has had so far."""
        marked = zip(self.wanted, self.met.tolist(), strict=True)
        return [f"{condition.column}={value}" for (condition, value), met in marked if not met]

    def warn_unmet(self) -> None:
        """Warns of values that did not occur. Called when all workers have ended a pass; only the first call warns."""
        if not self.warned.item():
            self.warned[0] = True
            if unmet := self.unmet():
                logger.warning("No row that this process has read has %s, of --where.", ", ".join(unmet))


__all__ = ["StreamConditions", "check_values", "column_as_text", "parse_conditions", "matching_rows", "rows_where"]
