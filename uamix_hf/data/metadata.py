"""Reads the metadata files of an audio folder as text: metadata.csv, metadata.jsonl or metadata.parquet."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as `audiofolder`
MAX_SHOWN = 200  # characters of untrusted text in a message

Row = tuple[str, dict[str, Any]]  # its position in the file, and its cells by column


class DataError(ValueError):
    """Data that cannot be used; the message names the folder, column or value and what to do."""


def abbreviate(names: Iterable[object], count: int = 5) -> str:
    """Joins the first `count` names for a message."""
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:count])
    return shown[:MAX_SHOWN] + ", ..." * (len(texts) > count or len(shown) > MAX_SHOWN)


def plain_text(value: Any, source: str) -> str:
    """Converts a cell to text; None and NaN are empty.

    Args:
        value: The cell.
        source: Where it is, for the message.

    Raises:
        DataError: A list, a dictionary or bytes.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, (list, dict, bytes)):
        raise DataError(f"{source} holds {str(value)[:MAX_SHOWN]}: text or a number is needed.")
    return str(value)


def as_text(value: Any, source: str) -> str:
    """As [`plain_text`], without surrounding space and in Unicode's NFC, so that texts that look equal are equal."""
    return unicodedata.normalize("NFC", plain_text(value, source)).strip()


def read_metadata(path: Path, file: Path) -> dict[str, list[str]]:
    """Reads the columns of a metadata file, one of them `file_name`, as text.

    Everything stays text: class "01" must not become the number 1, nor an empty cell NaN.

    Args:
        path: The file that is opened.
        file: Its name for messages; the ending is its format.

    Raises:
        DataError: Not a table in UTF-8, no column `file_name`, two columns of the same name, or a row without a file,
            with more cells than the header, or with a value that is neither text nor number.
    """
    read = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}[file.suffix]
    names, rows = read(path, file)
    if "file_name" not in names:
        raise DataError(f"{file} has no column file_name, only {', '.join(names)[:MAX_SHOWN] or 'nothing'}.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file} has several columns of the name {', '.join(twice)[:MAX_SHOWN]}: rename all but one.")
    for place, row in rows:
        if not row.get("file_name"):
            raise DataError(f"{file}, {place}: file_name is empty.")
    return {name: [plain_text(row.get(name), f"{file}, {place}, {name}") for place, row in rows] for name in names}


def text_of(path: Path, file: Path) -> str:
    """Reads a file as UTF-8 text.

    Raises:
        DataError: Not UTF-8, or with NUL characters.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}") from error
    if "\0" in text:
        raise DataError(f"{file} is not text: it holds NUL characters. Save it in UTF-8.")
    return text


def read_csv(path: Path, file: Path) -> tuple[list[str], list[Row]]:
    """Reads the column names and rows of metadata.csv.

    Raises:
        DataError: Not comma-separated values in UTF-8, or a row with more cells than the header.
    """
    reader = csv.DictReader(io.StringIO(text_of(path, file), newline=""), strict=True)
    rows = []
    try:
        names = [name for name in reader.fieldnames or [] if name]  # spreadsheets leave nameless columns at the end
        for row in reader:
            place = f"line {reader.line_num}"
            if any(row.pop(None, None) or []):  # type: ignore[call-overload]  # DictReader's entry for cells without a name
                raise DataError(
                    f"{file}, {place}: more cells than the header has. Put cells that hold a comma between quotes."
                )
            rows.append((place, row))
    except csv.Error as error:
        raise DataError(f"{file}, near line {reader.line_num}: not comma-separated values ({error}).") from error
    return names, rows


def read_jsonl(path: Path, file: Path) -> tuple[list[str], list[Row]]:
    """Reads the column names and rows of metadata.jsonl.

    Raises:
        DataError: A line that is not a JSON object, or has a name twice.
    """
    rows = []
    for number, line in enumerate(text_of(path, file).split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            pairs = json.loads(line, object_pairs_hook=lambda pairs: pairs)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, {place}: not JSON ({error}).") from error
        if not line.lstrip().startswith("{"):
            raise DataError(f"{file}, {place}: not an object of names and values.")
        row = dict(pairs)
        if len(row) < len(pairs):
            raise DataError(f"{file}, {place}: a name comes twice.")
        rows.append((place, row))
    return list(dict.fromkeys(name for _, row in rows for name in row)), rows


def read_parquet(path: Path, file: Path) -> tuple[list[str], list[Row]]:
    """Reads the column names and rows of metadata.parquet.

    Raises:
        DataError: Not a Parquet file.
    """
    try:
        with open(path, "rb") as opened:
            table = pq.read_table(opened)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a Parquet file ({str(error)[:MAX_SHOWN]}).") from error
    rows = [(f"row {number}", row) for number, row in enumerate(table.to_pylist(), 1)]
    return table.column_names, rows


__all__ = ["METADATA", "DataError", "as_text", "abbreviate", "plain_text", "read_metadata"]
