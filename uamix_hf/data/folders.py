"""A folder of sound to a table: which files are recordings, and what the folder says of them."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Audio, Dataset
from datasets.data_files import SPLIT_KEYWORDS
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

from ..audio.files import AUDIO_SUFFIXES, other_unicode_form
from .metadata import METADATA, SHOWN, DataError, first_few, read_metadata

logger = logging.getLogger(__name__)


def sound_folder(folder: str | Path) -> Dataset:
    """Every recording of a folder, nested or not, read as `audiofolder` does.

    With `metadata.csv`, `.jsonl` or `.parquet` (column `file_name`, paths from where that file is), in the folder or in
    sub-folders of it, what is listed, in that order, with all columns as text. Without, all recordings sorted by path,
    and `label` is the name of the folder that holds the file, where there are sub-folders. Where all sub-folders are
    named after splits (train, validation, test), `split` says which.

    Hidden files and folders, and folders that begin with `__`, do not count. What is left out is named in a warning. No
    link and no listed name leads out of the folder: data from elsewhere must not choose what is read here.

    Raises:
        DataError: no folder, no recording, a file that is listed but absent or outside the folder, a link that leads
            out of it, or metadata that cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    everything = sorted(files_of(root))
    files = [path for path in everything if not is_hidden(path.relative_to(root))]
    tables = metadata_files(root, files)
    if tables:
        columns, paths = listed(root, tables)
    else:
        paths = recordings_of(root, files)
        columns = {"file_name": [str(path.relative_to(root)) for path in paths]}
    if not paths:
        raise DataError(f"{root} holds no recordings ({', '.join(AUDIO_SUFFIXES)}).")
    warn_unused(root, everything, paths, tables)
    tops = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in columns["file_name"]]
    splits = [split_named(top) for top in tops]
    if all(splits):
        columns = {"split": splits} | columns  # the folder's own column, if any, is kept
    if not tables:
        parents = [path.parent for path in paths]
        no_class = [root, *(root / top for top in tops if all(splits))]
        labels = ["" if parent in no_class else parent.name for parent in parents]
        if any(labels):
            columns["label"] = labels
    return Dataset.from_dict({"audio": [str(path) for path in paths], **columns}).cast_column(
        "audio", Audio(decode=False)
    )


def files_of(root: Path) -> Iterator[Path]:
    """All files of a folder, and links to folders, which are not followed: what is in those is found where it is.

    Raises:
        DataError: a folder that cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed ({error.strerror}).") from error

    for folder, folders, files in os.walk(root, onerror=stop):
        yield from (Path(folder, name) for name in files)
        yield from (path for path in (Path(folder, name) for name in folders) if path.is_symlink())


def is_hidden(path: Path) -> bool:
    """Whether `datasets` leaves a path of a folder out: `.DS_Store`, `._a.wav`, `.Trashes/a.wav`, `__MACOSX/a.wav`."""
    return any(part.startswith(".") for part in path.parts) or any(part.startswith("__") for part in path.parts[:-1])


def metadata_files(root: Path, files: Sequence[Path]) -> list[Path]:
    """
    Raises:
        DataError: files of several kinds, or one that is called almost so.
    """
    for path in files:
        if path.name.lower() in METADATA and path.name not in METADATA:
            raise DataError(f"{path} is not read as metadata: rename it to {path.name.lower()}.")
    tables = [path for path in files if path.name in METADATA]
    if len({path.name for path in tables}) > 1:
        names = first_few(str(path.relative_to(root)) for path in tables)
        raise DataError(f"{root} holds metadata of several kinds ({names}): keep one.")
    return tables


def listed(root: Path, tables: Sequence[Path]) -> tuple[dict[str, list[str]], list[Path]]:
    """Columns of all metadata files, and the recordings that they list; `file_name` is from `root` on."""
    columns: dict[str, list[str]] = {}
    paths = []
    for file in tables:
        own = read_metadata(file_inside(root, str(file.relative_to(root)), f"{root} has a"), file)
        own = {name: values for name, values in own.items() if name not in ("audio", "sample_id")}
        place = file.parent.relative_to(root)
        paths += [file_inside(root, str(place / name), f"{file} lists", shown=name) for name in own["file_name"]]
        if file.parent != root:
            own["file_name"] = [str(place / name) for name in own["file_name"]]
        columns = columns or {name: [] for name in own}
        if own.keys() != columns.keys():
            names = first_few(sorted(own.keys() ^ columns.keys()))
            raise DataError(f"{file} and {tables[0]} have different columns: {names} is not in both.")
        for name, values in own.items():
            columns[name] += values
    return columns, paths


def recordings_of(root: Path, files: Sequence[Path]) -> list[Path]:
    """Those files that are recordings by their ending.

    Raises:
        DataError: a link that leads out of the folder or nowhere, or a name that is not Unicode.
    """
    found = []
    for path in files:
        name, wanted = str(path.relative_to(root)), path.suffix.lower() in AUDIO_SUFFIXES
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


def warn_unused(root: Path, everything: Sequence[Path], used: Sequence[Path], tables: Sequence[Path]) -> None:
    """Names the files that look like recordings and are not used, and why."""
    taken = {os.path.realpath(path) for path in used}
    unused: dict[str, list[str]] = {}
    for path in everything:
        suffix = path.suffix.lower()
        if suffix not in (*AUDIO_SUFFIXES, *AudioFolder.EXTENSIONS) or os.path.realpath(path) in taken:
            continue
        name = path.relative_to(root)
        if is_hidden(name):
            reason = "hidden"
        elif tables:
            reason = f"not listed in {tables[0].name}"
        else:
            reason = f"of kinds other than {', '.join(AUDIO_SUFFIXES)}"
        unused.setdefault(reason, []).append(str(name))
    for reason, names in unused.items():
        logger.warning(
            "%s: %d of %d files of sound are left out, %s: %s",
            root, len(names), len(names) + len(taken), reason, first_few(names),
        )  # fmt: skip


def split_named(folder: str) -> str:
    """Split that the name of a folder says, as `datasets` reads it, or nothing."""
    for split, words in SPLIT_KEYWORDS.items():
        if re.fullmatch(rf"({'|'.join(words)})([-._ 0-9].*)?", folder):
            return str(split)
    return ""


def path_inside(root: Path, name: str, source: str, shown: str | None = None) -> Path:
    """`name` in the folder `root`, with all links followed.

    Args:
        source: Who names it, for the message: "x.csv lists". shown: How it is named there, if otherwise.

    Raises:
        DataError: it lies outside the folder.
    """
    path = Path(os.path.realpath(root / name))  # unlike Path.resolve, no error for a link that leads to itself
    if not path.is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{source} {(shown or name)[:SHOWN]}, which lies outside the folder: copy it into {root}, or give a folder "
            "that holds both."
        )
    return path


def file_inside(root: Path, name: str, source: str, shown: str | None = None) -> Path:
    """As [`path_inside`], and a file; in the name of it accents may be encoded otherwise.

    Raises:
        DataError: it lies outside the folder, or is no file.
    """
    path = path_inside(root, name, source, shown)
    if os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
        return path
    if spelling := other_unicode_form(root / name):
        return path_inside(root, os.path.abspath(spelling), source, shown)
    raise DataError(f"{source} {(shown or name)[:SHOWN]}, which does not exist.")


__all__ = ["sound_folder"]
