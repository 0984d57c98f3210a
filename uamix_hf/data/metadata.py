"""What a folder of sound says of itself, `metadata.csv` and links, checked: no path leads out of the folder."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

METADATA = "metadata.csv"
SHOWN = 200  # characters of foreign text in a message


class DataError(ValueError):
    """Data that cannot be used; the message names the folder, column or value and says what to do."""


def path_inside(root: Path, name: str, source: str) -> Path:
    """`name` in the folder `root`, with all links followed.

    Args:
        source: Who names it, for the message: "x.csv lists".

    Raises:
        DataError: it lies outside the folder.
    """
    path = Path(os.path.realpath(root / name))  # unlike Path.resolve, no error for a link that leads to itself
    if not path.is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{source} {name[:SHOWN]}, which lies outside the folder: copy it into {root}, or give a folder that holds "
            "both."
        )
    return path


def file_inside(root: Path, name: str, source: str) -> Path:
    """As [`path_inside`], and a file.

    Raises:
        DataError: it lies outside the folder, or is no file.
    """
    path = path_inside(root, name, source)
    if not os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
        raise DataError(f"{source} {name[:SHOWN]}, which does not exist.")
    return path


def read_metadata(root: Path) -> dict[str, list[str]]:
    """Columns of `root/metadata.csv` by name, among them `file_name`, as text.

    Everything is kept as text: class "01" must not turn into the number 1, nor an empty cell into NaN.

    Raises:
        DataError: not a table in UTF-8, no column `file_name`, two columns of one name, a row without a file or with
            more cells than the header; or the file itself is a link out of the folder.
    """
    file = root / METADATA
    path = file_inside(root, METADATA, f"{root} has a")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}") from error
    if "\0" in text:
        raise DataError(f"{file} is not text: it holds NUL characters. Save it as CSV in UTF-8.")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name for name in reader.fieldnames or [] if name]  # spreadsheets leave nameless columns at the end
        if "file_name" not in names:
            present = ", ".join(names)[:SHOWN] or "nothing"
            raise DataError(f"{file} has no column file_name, only {present}.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{file} has several columns of the name {', '.join(twice)[:SHOWN]}: rename all but one.")
        columns: dict[str, list[str]] = {name: [] for name in names}
        for row in reader:
            if any(row.get(None) or []):  # type: ignore[call-overload]  # where DictReader puts what has no name
                raise DataError(
                    f"{file}, line {reader.line_num}: more cells than the header has. Put cells that hold a comma "
                    "between quotes."
                )
            for name in names:
                columns[name].append(row[name] or "")
            if not row["file_name"]:
                raise DataError(f"{file}, line {reader.line_num}: file_name is empty.")
    except csv.Error as error:
        raise DataError(f"{file}, near line {reader.line_num}: not comma-separated values ({error}).") from error
    return columns


def find_files(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files of these endings in a folder, nested or not, sorted. Links within the folder count, to folders they do not:
    what is in those is found where it really is.

    Raises:
        DataError: a link that leads out of the folder or nowhere, or a name that is not Unicode.
    """
    found = []
    for path in sorted(root.rglob("*")):
        name, wanted = str(path.relative_to(root)), path.suffix.lower() in suffixes
        if path.is_symlink() and path.is_dir():
            path_inside(root, name, f"{root} holds the link")
        elif path.is_symlink() and wanted:
            file_inside(root, name, f"{root} holds the link")
        if wanted and path.is_file():
            found.append(path)
            try:
                str(path).encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{str(path)!r} has a name that is not UTF-8: rename it.") from error
    return found


__all__ = ["METADATA", "DataError", "file_inside", "find_files", "path_inside", "read_metadata"]
