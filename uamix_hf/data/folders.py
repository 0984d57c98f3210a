"""Reads an audio folder as a table of recordings and their metadata."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from datasets import Audio, Dataset
from datasets.data_files import SPLIT_KEYWORDS
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

from ..audio.files import AUDIO_SUFFIXES, other_unicode_form
from .metadata import MAX_SHOWN, METADATA, DataError, abbreviate, read_metadata

logger = logging.getLogger(__name__)


def audio_folder(folder: str | Path) -> Dataset:
    """Reads every recording of a folder, nested or not, as `audiofolder` of `datasets` does.

    With `metadata.csv`, `.jsonl` or `.parquet` (column `file_name`, relative to that file) in the folder or its
    sub-folders, the rows are the listed recordings in that order, with all columns as text. Without, they are all
    recordings sorted by path; if there are sub-folders, `label` is the name of the file's folder. If all sub-folders
    are named after splits (train, validation, test), `split` names the split.

    Hidden files and folders, and folders whose names begin with `__`, do not count. A warning names the files that are
    left out. No link and no listed name may lead out of the folder: untrusted data must not choose what is read.

    Args:
        folder: The folder.

    Returns:
        Columns `audio` (`Audio(decode=False)`), `file_name` and the metadata.

    Raises:
        DataError: No folder, no recording, a listed file that is missing or outside the folder, a link that leads out
            of it, or metadata that cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    everything = sorted(list_files(root))
    files = [path for path in everything if not is_hidden(path.relative_to(root))]
    tables = metadata_files(root, files)
    if tables:
        columns, paths = read_listed(root, tables)
    else:
        paths = find_recordings(root, files)
        columns = {"file_name": [str(path.relative_to(root)) for path in paths]}
    if not paths:
        raise DataError(f"{root} holds no recordings ({', '.join(AUDIO_SUFFIXES)}).")
    warn_unused(root, everything, paths, tables)
    tops = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in columns["file_name"]]
    splits = [split_of_folder(top) for top in tops]
    if all(splits):
        columns = {"split": splits} | columns  # the metadata's own column, if any, is kept
    if not tables:
        parents = [path.parent for path in paths]
        no_class = [root, *(root / top for top in tops if all(splits))]
        labels = ["" if parent in no_class else parent.name for parent in parents]
        if any(labels):
            columns["label"] = labels
    return Dataset.from_dict({"audio": [str(path) for path in paths], **columns}).cast_column(
        "audio", Audio(decode=False)
    )


def list_files(root: Path) -> Iterator[Path]:
    """Lists all files of a folder, and links to folders, which are not followed.

    Raises:
        DataError: A folder that cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed ({error.strerror}).") from error

    for folder, folders, files in os.walk(root, onerror=stop):
        yield from (Path(folder, name) for name in files)
        yield from (path for path in (Path(folder, name) for name in folders) if path.is_symlink())


def is_hidden(path: PurePath) -> bool:
    """Whether `datasets` ignores a relative path: `.DS_Store`, `._a.wav`, `.Trashes/a.wav`, `__MACOSX/a.wav`."""
    return any(part.startswith(".") for part in path.parts) or any(part.startswith("__") for part in path.parts[:-1])


def metadata_files(root: Path, files: Sequence[Path]) -> list[Path]:
    """Finds the metadata files of a folder.

    Raises:
        DataError: Files of several kinds, or one whose name differs by its case.
    """
    for path in files:
        if path.name.lower() in METADATA and path.name not in METADATA:
            raise DataError(f"{path} is not read as metadata: rename it to {path.name.lower()}.")
    tables = [path for path in files if path.name in METADATA]
    if len({path.name for path in tables}) > 1:
        names = abbreviate(str(path.relative_to(root)) for path in tables)
        raise DataError(f"{root} holds metadata of several kinds ({names}): keep one.")
    return tables


def read_listed(root: Path, tables: Sequence[Path]) -> tuple[dict[str, list[str]], list[Path]]:
    """Reads all metadata files of a folder.

    Returns:
        Their columns, with `file_name` relative to `root`, and the paths of the recordings.

    Raises:
        DataError: A file that cannot be read, different columns, or a listed file that is missing or outside.
    """
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
            names = abbreviate(sorted(own.keys() ^ columns.keys()))
            raise DataError(f"{file} and {tables[0]} have different columns: {names} is not in both.")
        for name, values in own.items():
            columns[name] += values
    return columns, paths


def find_recordings(root: Path, files: Sequence[Path]) -> list[Path]:
    """Finds the recordings among the files of a folder, by their endings.

    Raises:
        DataError: A link that leads out of the folder or nowhere, or a name that is not Unicode.
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
    """Warns of files that look like recordings and are not used, with the reason."""
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
            "%s: %d of %d audio files are left out, %s: %s",
            root, len(names), len(names) + len(taken), reason, abbreviate(names),
        )  # fmt: skip


def split_of_folder(folder: str) -> str:
    """Split that a folder is named after, as `datasets` reads it, or an empty string."""
    for split, words in SPLIT_KEYWORDS.items():
        if re.fullmatch(rf"({'|'.join(words)})([-._ 0-9].*)?", folder):
            return str(split)
    return ""


def path_inside(root: Path, name: str, source: str, shown: str | None = None) -> Path:
    """Resolves a path inside a folder, with all links followed.

    Args:
        root: The folder.
        name: The path, relative to `root`.
        source: Beginning of the error's message: what names the path, as in "x.csv lists".
        shown: The path as it is given there, if different.

    Raises:
        DataError: The path lies outside the folder.
    """
    path = Path(os.path.realpath(root / name))  # unlike Path.resolve, no error for a link to itself
    if not path.is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{source} {(shown or name)[:MAX_SHOWN]}, which lies outside the folder: copy it into {root}, or give a "
            "folder that holds both."
        )
    return path


def file_inside(root: Path, name: str, source: str, shown: str | None = None) -> Path:
    """As [`path_inside`], for a file, whose accents may be in the other Unicode form.

    Raises:
        DataError: The path lies outside the folder, or is not a file.
    """
    path = path_inside(root, name, source, shown)
    if os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
        return path
    if spelling := other_unicode_form(root / name):
        return path_inside(root, os.path.abspath(spelling), source, shown)
    raise DataError(f"{source} {(shown or name)[:MAX_SHOWN]}, which does not exist.")


__all__ = ["audio_folder"]
