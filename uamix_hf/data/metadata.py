"""What a folder of sound says of its recordings, read as text: metadata.csv, metadata.jsonl or metadata.parquet."""

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
SHOWN = 200  # characters of foreign text in a message

Row = tuple[str, dict[str, Any]]  # where it is in its file, and its cells by column


class DataError(ValueError):
    """Data that cannot be used; the message names the folder, column or value and says what to do."""


def first_few(names: Iterable[object], count: int = 5) -> str:
    """The first names, for a message."""
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:count])
    return shown[:SHOWN] + ", ..." * (len(texts) > count or len(shown) > SHOWN)


def plain_text(value: Any, source: str) -> str:
    """A cell as text; nothing, also NaN, is empty.

    Args:
        source: What holds it, for the message.

    Raises:
        DataError: a list, a dictionary or bytes.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, (list, dict, bytes)):
        raise DataError(f"{source} holds {str(value)[:SHOWN]}: text or a number is needed.")
    return str(value)


def as_text(value: Any, source: str) -> str:
    """As [`plain_text`], so that what reads alike is alike: no space around it, letters composed (NFC)."""
    return unicodedata.normalize("NFC", plain_text(value, source)).strip()


def read_metadata(path: Path, file: Path) -> dict[str, list[str]]:
    """Columns of a metadata file by name, among them `file_name`, as text.

    Everything is kept as text: class "01" must not turn into the number 1, nor an empty cell into NaN.

    Args:
        path: What is opened; its ending says how. file: Its name for messages.

    Raises:
        DataError: not a table in UTF-8, no column `file_name`, two columns of one name, or a row without a file, with
            more cells than the header, or with what is neither text nor number.
    """
    read = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}[file.suffix]
    names, rows = read(path, file)
    if "file_name" not in names:
        raise DataError(f"{file} has no column file_name, only {', '.join(names)[:SHOWN] or 'nothing'}.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file} has several columns of the name {', '.join(twice)[:SHOWN]}: rename all but one.")
    for place, row in rows:
        if not row.get("file_name"):
            raise DataError(f"{file}, {place}: file_name is empty.")
    return {name: [plain_text(row.get(name), f"{file}, {place}, {name}") for place, row in rows] for name in names}


def text_of(path: Path, file: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}") from error
    if "\0" in text:
        raise DataError(f"{file} is not text: it holds NUL characters. Save it in UTF-8.")
    return text


def read_csv(path: Path, file: Path) -> tuple[list[str], list[Row]]:
    reader = csv.DictReader(io.StringIO(text_of(path, file), newline=""), strict=True)
    rows = []
    try:
        names = [name for name in reader.fieldnames or [] if name]  # spreadsheets leave nameless columns at the end
        for row in reader:
            place = f"line {reader.line_num}"
            if any(row.pop(None, None) or []):  # type: ignore[call-overload]  # where DictReader puts what has no name
                raise DataError(
                    f"{file}, {place}: more cells than the header has. Put cells that hold a comma between quotes."
                )
            rows.append((place, row))
    except csv.Error as error:
        raise DataError(f"{file}, near line {reader.line_num}: not comma-separated values ({error}).") from error
    return names, rows


def read_jsonl(path: Path, file: Path) -> tuple[list[str], list[Row]]:
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
    try:
        with open(path, "rb") as opened:
            table = pq.read_table(opened)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a Parquet file ({str(error)[:SHOWN]}).") from error
    rows = [(f"row {number}", row) for number, row in enumerate(table.to_pylist(), 1)]
    return table.column_names, rows


__all__ = ["METADATA", "DataError", "as_text", "first_few", "plain_text", "read_metadata"]
