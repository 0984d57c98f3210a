"""Folders and Hub datasets of sound to one table: `audio` (undecoded), `sample_id`, and what is known of each row."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Dataset, concatenate_datasets, load_dataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import constants

from ..audio import AUDIO_SUFFIXES
from .metadata import METADATA, DataError, file_inside, find_files, read_metadata
from .undecoded import without_torchcodec


def sound_folder(folder: str | Path) -> Dataset:
    """Every recording of a folder, nested or not, in the order of `metadata.csv` or else of the sorted paths.

    With a `metadata.csv` (column `file_name`, relative paths; the layout of `audiofolder`) its columns are kept, as
    strings. Without, `label` is the name of the folder that holds the file, where there are sub-folders.

    No link and no listed name leads out of the folder: data that came from elsewhere must not choose what is read here.

    Raises:
        DataError: no folder, no recording, a file that is listed but absent or outside the folder, a link that leads
            out of it, or a `metadata.csv` that is none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    if (root / METADATA).is_file() or (root / METADATA).is_symlink():
        columns = read_metadata(root)
        paths = [file_inside(root, name, f"{root / METADATA} lists") for name in columns["file_name"]]
        columns = {name: values for name, values in columns.items() if name not in ("audio", "sample_id")}
    else:
        paths = find_files(root, AUDIO_SUFFIXES)
        columns = {"file_name": [str(path.relative_to(root)) for path in paths]}
        if any(path.parent != root for path in paths):
            columns["label"] = [path.parent.name for path in paths]
    if not paths:
        raise DataError(f"{root} holds no recordings ({', '.join(AUDIO_SUFFIXES)}).")
    return Dataset.from_dict({"audio": [str(path) for path in paths], **columns}).cast_column(
        "audio", Audio(decode=False)
    )


def load_recordings(
    data_dir: str | Sequence[str] | None = None,
    dataset_name: str | None = None,
    dataset_split: str = "train",
    audio_column: str = "audio",
    where: Sequence[str] = (),
) -> Dataset:
    """Folders of sound or a dataset of the Hub as one table, filtered.

    Args:
        data_dir: One folder or several, see [`sound_folder`]; of several, the columns that all have are kept.
        dataset_name: For `datasets.load_dataset`. Either this or `data_dir`.
        where: Conditions `COLUMN=VALUE[,VALUE...]` that all must hold; values are compared as text. With several
            folders, `FOLDER:COLUMN=VALUE` holds for the folder of that name alone.

    Returns:
        Columns `audio` (`Audio(decode=False)`), `sample_id` (int64, row number before filtering, counted through all
        folders) and the data's own.

    Raises:
        DataError: neither or both sources, folders of equal names, a missing column, or no row that meets `where`.
    """
    folders = [data_dir] if isinstance(data_dir, (str, Path)) else list(data_dir or [])
    if bool(folders) == (dataset_name is not None):
        raise DataError("Give either a folder of sound or the name of a dataset.")
    if dataset_name is not None:
        return select_rows(hub_dataset(dataset_name, dataset_split, audio_column), 0, where)
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise DataError(f"Two folders have the same name ({', '.join(names)}), so conditions cannot tell them apart.")
    tables, seen = [], 0
    for name, folder in zip(names, folders, strict=True):
        table = sound_folder(folder)
        others = tuple(f"{other}:" for other in names if other != name)
        own = [condition.removeprefix(f"{name}:") for condition in where if not condition.startswith(others)]
        tables.append(select_rows(table, seen, own))
        seen += len(table)
    common = [column for column in tables[0].column_names if all(column in table.column_names for table in tables)]
    return concatenate_datasets([table.select_columns(common) for table in tables])


def hub_dataset(name: str, split: str, audio_column: str) -> Dataset:
    try:
        with without_torchcodec():
            table = load_dataset(name, split=split)
    except DatasetGenerationError as error:
        raise DataError(f"{name} cannot be read: {error.__cause__ or error}") from error
    if audio_column not in table.column_names:
        raise DataError(f"{name} has no column {audio_column!r}, only {', '.join(table.column_names)}.")
    try:
        # load_audio decodes: one path for training and inference, which averages channels without a gain of 3 dB.
        with without_torchcodec():
            table = table.cast_column(audio_column, Audio(decode=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise DataError(f"Column {audio_column!r} of {name} holds no sound: {error}") from error
    check_paths(table, audio_column, name)
    return table if audio_column == "audio" else table.rename_column(audio_column, "audio")


def came_with(path: str, name: str) -> bool:
    """Whether a file is of the dataset `name` itself: in its own folder, in the cache that it was downloaded to, or at
    its address on the Hub, perhaps inside an archive there."""
    if "://" in path:
        inside = r"((zip|tar|gzip|bz2|xz|lz4|zstd)://[^:]*::)*"
        return re.fullmatch(rf"{inside}hf://datasets/{re.escape(name)}@[^:]*", path) is not None
    caches = (constants.HF_HUB_CACHE, datasets_config.HF_DATASETS_CACHE, datasets_config.DOWNLOADED_DATASETS_PATH)
    roots = [Path(root).resolve() for root in ([name] if Path(name).is_dir() else caches)]
    return any(Path(os.path.realpath(path)).is_relative_to(root) for root in roots)


def foreign_file(path: str, name: str) -> DataError:
    return DataError(
        f"{name} lists {path}, which is no file that came with it: store the sound itself in the dataset, or unpack it "
        "and give the folder."
    )


def check_paths(table: Dataset, column: str, name: str) -> None:
    """
    Raises:
        DataError: a row without bytes names a file that did not come with the dataset.
    """
    values = table.data.column(column)
    bare = values.filter(pc.is_null(pc.struct_field(values, "bytes")))
    for path in pc.struct_field(bare, "path").drop_null().to_pylist():
        if not came_with(path, name):
            raise foreign_file(path, name)


def select_rows(table: Dataset, first_id: int, where: Sequence[str]) -> Dataset:
    # Numbered before filtering: an id means the same clip whichever rows a run uses.
    table = table.add_column("sample_id", list(range(first_id, first_id + len(table))))
    return table.select(rows_where(table, where)) if where else table


def column_as_text(table: Dataset, column: str) -> list[str]:
    """Values of a column as text; class numbers of a `ClassLabel` become their names.

    Raises:
        DataError: no such column.
    """
    if column not in table.column_names:
        raise DataError(f"There is no column {column!r}, only {', '.join(table.column_names)}.")
    feature, values = table.features[column], table[column]
    if hasattr(feature, "int2str"):
        return [feature.int2str(value) for value in values]
    return ["" if value is None else str(value) for value in values]


def conditions_of(texts: Sequence[str]) -> list[tuple[str, set[str]]]:
    """Column and allowed values of each condition `COLUMN=VALUE[,VALUE...]`.

    Raises:
        DataError: a condition of another form.
    """
    parts = [text.partition("=") for text in texts]
    for text, (_, equals, _) in zip(texts, parts, strict=True):
        if not equals:
            raise DataError(f"{text!r} is not of the form COLUMN=VALUE[,VALUE...].")
    return [(column, set(values.split(","))) for column, _, values in parts]


def rows_where(table: Dataset, conditions: Sequence[str]) -> list[int]:
    """Numbers of the rows that meet all conditions `COLUMN=VALUE[,VALUE...]`, compared as text.

    Raises:
        DataError: a condition of another form, a missing column, or no such row.
    """
    rows = list(range(len(table)))
    for condition, (column, wanted) in zip(conditions, conditions_of(conditions), strict=True):
        texts = column_as_text(table, column)
        present = sorted({texts[row] for row in rows})
        rows = [row for row in rows if texts[row] in wanted]
        if not rows:
            raise DataError(
                f"No row has {condition}; {column} is {', '.join(present[:20])}{', ...' * (len(present) > 20)}."
            )
    return rows


__all__ = ["column_as_text", "load_recordings", "rows_where", "sound_folder"]
