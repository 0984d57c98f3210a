"""Audio folders and Hub datasets as one table: `audio` (undecoded), `sample_id` and their own columns."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets, load_dataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import constants
from tqdm.auto import tqdm

from ..audio.errors import source_name
from ..audio.loading import stream_audio
from ..models.audio_mae.feature_extraction_audio_mae import AudioInputError
from .folders import audio_folder
from .metadata import DataError
from .tables import with_audio
from .undecoded import without_torchcodec
from .where import check_values, matching_rows, parse_conditions, rows_where

logger = logging.getLogger(__name__)


def load_recordings(
    data_dir: str | Sequence[str] | None = None,
    dataset_name: str | None = None,
    dataset_split: str = "train",
    audio_column: str = "audio",
    where: Sequence[str] = (),
    *,
    config_name: str | None = None,
) -> Dataset:
    """Loads audio folders or a dataset of the Hub as one table, filtered.

    Args:
        data_dir: One folder or several, see [`audio_folder`]. Of several, the common columns are kept, and a warning
            names the others.
        dataset_name: Name for `datasets.load_dataset`, instead of `data_dir`.
        dataset_split: Split of that dataset, or several, `train+test`, with the column `split` that says which a row
            is of.
        audio_column: Audio column of that dataset.
        where: Conditions `COLUMN=VALUE[,VALUE...]`, all of which must hold; values are compared as text, see
            [`column_as_text`]. With several folders, `FOLDER:COLUMN=VALUE` restricts the folder of that name.
        config_name: Configuration of that dataset, where it has several.

    Returns:
        Columns `audio` (`Audio(decode=False)`), `sample_id` (int64, row number before filtering, over all folders) and
        the data's own.

    Raises:
        DataError: Neither or both sources, arguments of the other source, folders of equal names, a missing column, a
            value of `where` that no row has, or no row that meets the conditions.
    """
    folders = [data_dir] if isinstance(data_dir, (str, Path)) else list(data_dir or [])
    if bool(folders) == (dataset_name is not None):
        raise DataError("Give either an audio folder or the name of a dataset.")
    if dataset_name is not None:
        table = add_sample_ids(hub_dataset(dataset_name, dataset_split, audio_column, config_name), 0)
        return table.select(rows_where(table, where)) if where else table
    if (dataset_split, audio_column, config_name) != ("train", "audio", None):
        raise DataError(
            "dataset_split, audio_column and config_name go with dataset_name, and have no effect on folders."
        )
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise DataError(f"Two folders have the same name ({', '.join(names)}), so conditions cannot tell them apart.")
    tables: list[Dataset] = []
    for folder in folders:
        tables.append(add_sample_ids(audio_folder(folder), sum(map(len, tables))))
    prefixes = tuple(f"{name}:" for name in names)
    shared = parse_conditions([text for text in where if not text.startswith(prefixes)])
    check_values(tables, shared)
    for number, (prefix, table) in enumerate(zip(prefixes, tables, strict=True)):
        own = parse_conditions([text.removeprefix(prefix) for text in where if text.startswith(prefix)])
        check_values([table], own)
        tables[number] = table.select(matching_rows(table, [*shared, *own])) if shared or own else table
    table = concatenate_common_columns(tables, names)
    if "split" in table.column_names and len(splits := sorted(set(table["split"]))) > 1:
        logger.warning("Rows of all splits are used: %s. --where split=... chooses.", ", ".join(splits))
    return table


def concatenate_common_columns(tables: Sequence[Dataset], names: Sequence[str]) -> Dataset:
    """Concatenates tables, with the columns that all have; warns of the others."""
    common = [column for column in tables[0].column_names if all(column in table.column_names for table in tables)]
    for name, table in zip(names, tables, strict=True):
        if dropped := [column for column in table.column_names if column not in common]:
            logger.warning("%s: not all folders have %s, so they are left out.", name, ", ".join(dropped))
    return concatenate_datasets([table.select_columns(common) for table in tables])


def hub_dataset(name: str, split: str, audio_column: str, config_name: str | None = None) -> Dataset:
    """Loads a dataset of the Hub with its audio column undecoded, as `audio`.

    Raises:
        DataError: The dataset cannot be read, has no such column, none with audio, or a file outside the dataset; or
            several splits of one that has a column `split` of its own.
    """
    splits = split.split("+")
    try:
        with without_torchcodec():
            tables = [load_dataset(name, config_name, split=one) for one in splits]
    except DatasetGenerationError as error:
        raise DataError(f"{name} cannot be read: {error.__cause__ or error}") from error
    if len(splits) > 1:
        if "split" in tables[0].column_names:
            raise DataError(f"{name} has a column 'split': give one split, not {split}.")
        # Whole splits alone have one name for all their rows: of train[:10] it is train.
        tables = [
            table.add_column("split", [one.partition("[")[0]] * len(table))
            for one, table in zip(splits, tables, strict=True)
        ]
    table = with_audio(concatenate_datasets(tables), audio_column, name)
    check_paths(table, "audio", name)
    return table


def belongs_to_dataset(path: str, name: str) -> bool:
    """Whether a file belongs to the dataset `name` itself.

    It does in the dataset's own folder, in the download cache, and at its Hub address, also inside an archive there.
    """
    if "://" in path:
        inside = r"((zip|tar|gzip|bz2|xz|lz4|zstd)://[^:]*::)*"
        return re.fullmatch(rf"{inside}hf://datasets/{re.escape(name)}@[^:]*", path) is not None
    caches = (constants.HF_HUB_CACHE, datasets_config.HF_DATASETS_CACHE, datasets_config.DOWNLOADED_DATASETS_PATH)
    roots = [Path(root).resolve() for root in ([name] if Path(name).is_dir() else caches)]
    return any(Path(os.path.realpath(path)).is_relative_to(root) for root in roots)


def foreign_file_error(path: str, name: str) -> DataError:
    """Error for a row of a dataset with a file outside the dataset."""
    return DataError(
        f"{name} lists {path}, which is not a file of the dataset: store the audio itself in the dataset, or unpack it "
        "and give the folder."
    )


def check_paths(table: Dataset, column: str, name: str) -> None:
    """Checks that all files of a dataset belong to it.

    Raises:
        DataError: A row without bytes names a file outside the dataset.
    """
    values = table.data.column(column)
    bare = values.filter(pc.is_null(pc.struct_field(values, "bytes")))
    for path in pc.struct_field(bare, "path").drop_null().to_pylist():
        if not belongs_to_dataset(path, name):
            raise foreign_file_error(path, name)


def add_sample_ids(table: Dataset, first: int) -> Dataset:
    """Adds `sample_id`, numbered before filtering, so that an id is the same clip whichever rows a run uses."""
    return table.add_column("sample_id", list(range(first, first + len(table))))


def leave_out_unreadable(recordings: Dataset) -> tuple[Dataset, dict[str, str]]:
    """Leaves out the rows whose audio cannot be decoded to its end.

    Returns:
        The readable rows, and the reason for each other one by its name.

    Raises:
        AudioInputError: Not one recording can be read.
    """
    rows, skipped, first = [], {}, ""
    for row, value in enumerate(tqdm(recordings["audio"], desc="Checking", unit="clip")):
        try:
            for _ in stream_audio(value):
                pass
            rows.append(row)
        except AudioInputError as error:
            first = first or str(error)
            skipped[source_name(value)] = str(error)
    if not rows:
        raise AudioInputError(f"None of the {len(recordings)} recordings could be read; the first: {first}")
    return recordings.select(rows), skipped


def report_skipped(skipped: Mapping[str, str]) -> None:
    """Prints the recordings that were left out, and the reasons."""
    if skipped:
        print(f"{len(skipped)} recordings were left out:")
        for name, reason in skipped.items():
            print(f"  {name}: {reason}")


__all__ = ["leave_out_unreadable", "load_recordings", "report_skipped"]
