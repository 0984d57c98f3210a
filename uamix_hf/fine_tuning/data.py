"""The rows of a fine-tuning run: trained on, held out, and without labels."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from ..data import DataArguments, DataError, HeldOutArguments, PreparedData, prepare, report_skipped, split_held_out
from ..data.checks import refuse_idle
from ..models.front_ends import FrontEnd
from .arguments import FineTuningArguments
from .fixmatch import FixMatchArguments
from .labels import LabelArguments, Targets, check_training_labels, draw_shots, read_targets, with_labels


@dataclass
class FineTuningData:
    """Labelled clips of a fine-tuning run.

    Args:
        train: Log-mels with `labels` that are trained on.
        held_out: Log-mels with `labels` to evaluate on, by name: `test` for the final report alone, `eval` during
            training.
        targets: What is learnt.
        unlabelled: Log-mels of clips without labels, for FixMatch; else None.
        fixmatch: Settings of FixMatch; else None.
        source: Name of the data, for the model card.
        dataset_name: Hub id of the data, where they have one.
        skipped: Recordings that could not be read, by name, with the reason.
        settings: Settings that chose the rows, for the record.
    """

    train: Dataset
    held_out: dict[str, Dataset]
    targets: Targets
    unlabelled: Dataset | None = None
    fixmatch: FixMatchArguments | None = None
    source: str = "unknown"
    dataset_name: str | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def report_skipped(self) -> None:
        """Print the recordings that were left out."""
        report_skipped(self.skipped)


def fine_tuning_data(
    data_args: DataArguments,
    feature_extractor: FrontEnd,
    args: FineTuningArguments,
    label_args: LabelArguments | None = None,
    held_out_args: HeldOutArguments | None = None,
    test_where: Sequence[str] = (),
    fixmatch: FixMatchArguments | None = None,
) -> FineTuningData:
    """Read, check and split labelled recordings.

    Args:
        data_args: The recordings and their label column.
        feature_extractor: Computes the log-mels.
        args: Training arguments, for the seed and to let one process prepare the data for all.
        label_args: What the labels are, and how many are used; one class per clip by default.
        held_out_args: Rows to evaluate on during training; none by default.
        test_where: Conditions of rows for the final report alone; none by default.
        fixmatch: Settings of FixMatch; it is off by default.

    Raises:
        DataError: missing folder, column or rows, labels that cannot be learnt or measured, or no clips for FixMatch.
        ValueError: settings of FixMatch without FixMatch.
        AudioInputError: an unreadable recording, unless they are skipped.
    """
    label_args, held_out_args = label_args or LabelArguments(), held_out_args or HeldOutArguments()
    fixmatch = fixmatch or FixMatchArguments()
    if not fixmatch.fixmatch:
        refuse_idle(fixmatch, FixMatchArguments.__annotations__, "--fixmatch true")
    with args.main_process_first(desc="log-mels"):
        data = prepare(data_args, feature_extractor)
    targets = read_targets(data.recordings, data_args.label_column, label_args)
    data = dataclasses.replace(data, dataset=with_labels(data.dataset, targets.values))
    rest, test = split_held_out(data, HeldOutArguments(eval_where=list(test_where)), args.seed)
    train, evaluated = split_held_out(rest, held_out_args, args.seed)
    held_out = {name: part.dataset for name, part in (("test", test), ("eval", evaluated)) if part is not None}
    labels = {name: np.asarray(part["labels"][:]) for name, part in held_out.items()}
    check_training_labels(np.asarray(train.dataset["labels"][:]), labels, targets)
    labelled = train if label_args.k_shot is None else draw_shots(train, targets, label_args.k_shot, args.seed)
    unlabelled = None
    if fixmatch.fixmatch:
        with args.main_process_first(desc="log-mels"):
            unlabelled = unlabelled_clips(fixmatch, data_args, feature_extractor, train, labelled)
    return FineTuningData(
        labelled.dataset,
        held_out,
        targets,
        unlabelled,
        fixmatch if fixmatch.fixmatch else None,
        data_args.source,
        data_args.dataset_name,
        data.skipped,
        {**vars(label_args), **vars(held_out_args), **vars(fixmatch), "test_where": list(test_where)},
    )


def unlabelled_clips(
    args: FixMatchArguments,
    data_args: DataArguments,
    feature_extractor: FrontEnd,
    train: PreparedData,
    labelled: PreparedData,
) -> Dataset:
    """Log-mels of the folders in `args.unlabelled_dir`, or else of the training rows whose labels are not used.

    Args:
        args: Settings of FixMatch.
        data_args: How to treat unreadable recordings, and where and by how many processes to cache log-mels.
        feature_extractor: Computes the log-mels.
        train: All training rows.
        labelled: Those whose labels are used.

    Raises:
        DataError: there are no such clips.
        AudioInputError: an unreadable recording, unless they are skipped.
    """
    if args.unlabelled_dir:
        folders = DataArguments(
            args.unlabelled_dir,
            on_error=data_args.on_error,
            cache_dir=data_args.cache_dir,
            preprocessing_num_workers=data_args.preprocessing_num_workers,
        )
        return prepare(folders, feature_extractor).dataset
    rest = ~np.isin(train.dataset["sample_id"][:], labelled.dataset["sample_id"][:])
    if not rest.any():
        raise DataError("fixmatch: all training rows are labelled. Give unlabelled_dir, or lower k_shot.")
    return train.dataset.select(np.flatnonzero(rest))


__all__ = ["FineTuningData", "fine_tuning_data", "unlabelled_clips"]
