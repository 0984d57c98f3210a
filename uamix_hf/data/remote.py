"""Folders of object stores and servers as tables of recordings, by fsspec."""

from pathlib import PurePosixPath

import fsspec
from datasets import Audio, Dataset

from ..audio.files import AUDIO_SUFFIXES
from .folders import is_hidden
from .metadata import DataError


def remote_folder(url: str) -> Dataset:
    """Lists the recordings of a remote folder, nested or not, by their endings; nothing else is read.

    Hidden files and folders do not count. Credentials and other options are those of fsspec's configuration.

    Args:
        url: URL of a file system that fsspec knows, such as `s3://bucket/recordings`.

    Returns:
        Columns `audio` (`Audio(decode=False)`), whose paths are URLs, and `file_name`, relative to the folder; sorted.

    Raises:
        DataError: No recordings there, or a file system that is not installed.
    """
    try:
        system, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url} cannot be read: {error}") from error
    root = root.rstrip("/")
    names = {path: path.removeprefix(root).lstrip("/") for path in sorted(system.find(root))}
    files = {
        path: name
        for path, name in names.items()
        if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES and not is_hidden(PurePosixPath(name))
    }
    if not files:
        raise DataError(f"{url} holds no recordings ({', '.join(AUDIO_SUFFIXES)}).")
    columns = {"audio": [system.unstrip_protocol(path) for path in files], "file_name": list(files.values())}
    return Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))


__all__ = ["remote_folder"]
