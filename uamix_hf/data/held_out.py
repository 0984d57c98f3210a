"""Rows that are held out of training: by condition, or a random fraction."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..audio.errors import source_name
from .arguments import PreparedData
from .metadata import DataError, abbreviate
from .where import rows_where


@dataclass
class HeldOutArguments:
    """Which rows are held out of training and evaluated on.

    Raises:
        ValueError: Both a condition and a fraction, or a fraction out of range.
    """

    eval_where: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rows to hold out of training and evaluate on: COLUMN=VALUE[,VALUE...]; all conditions must hold.",
            "action": "extend",
        },
    )
    eval_fraction: float = field(
        default=0.0, metadata={"help": "Or the fraction of the groups, or of the clips, to hold out at random."}
    )

    def __post_init__(self) -> None:
        if self.eval_where and self.eval_fraction:
            raise ValueError("Give either eval_where or eval_fraction: both choose the rows that are held out.")
        if not 0 <= self.eval_fraction < 1:
            raise ValueError(f"eval_fraction={self.eval_fraction} is outside [0, 1).")


def select_rows(data: PreparedData, rows: Sequence[int] | np.ndarray) -> PreparedData:
    """Selects rows of the dataset, the groups and the recordings alike."""
    groups = None if data.groups is None else data.groups[rows]
    return dataclasses.replace(
        data, dataset=data.dataset.select(rows), groups=groups, recordings=data.recordings.select(rows)
    )


def split_held_out(data: PreparedData, args: HeldOutArguments, seed: int) -> tuple[PreparedData, PreparedData | None]:
    """Splits data into rows to train on and rows to evaluate on.

    Args:
        data: Data of [`prepare`].
        args: Which rows to hold out.
        seed: Seed of the draw of `eval_fraction` of the groups, or clips; at least one is drawn.

    Returns:
        Rows to train on and rows to evaluate on; the latter are None if `args` holds nothing out.

    Raises:
        DataError: No row is held out or none is left, a missing column, or a group on both sides.
    """
    if not (args.eval_where or args.eval_fraction):
        return data, None
    rows = np.arange(len(data.dataset))
    units = rows if data.groups is None else data.groups
    if args.eval_where:
        held = np.isin(rows, rows_where(data.recordings, args.eval_where))
        both = set(units[held]) & set(units[~held])
        if both:
            first = data.recordings.select(np.flatnonzero(units == min(both)))["audio"]
            raise DataError(
                f"{len(both)} groups have clips on both sides of eval_where={' '.join(args.eval_where)}, the first of "
                f"them {abbreviate(source_name(value) for value in first)}: what is learnt of their clips would count "
                "as found. Hold them out wholly; of copies of a recording, leave all but one out."
            )
    else:
        names = np.unique(units)
        count = max(1, math.floor(args.eval_fraction * len(names)))
        held = np.isin(units, np.random.default_rng(seed).choice(names, count, replace=False))
    if held.all():
        raise DataError(f"All {len(rows)} clips are held out: none is left to train on.")
    return select_rows(data, rows[~held]), select_rows(data, rows[held])


__all__ = ["HeldOutArguments", "split_held_out", "select_rows"]
