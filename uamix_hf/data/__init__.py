"""Datasets in, model batches out."""

from .arguments import DataArguments, PreparedData, as_groups, prepare
from .batches import LengthBucketSampler, LogMelCollator, VisitedRows
from .held_out import HeldOutArguments, hold_out, take
from .labels import LabelledClips, read_labels
from .log_mels import LogMels, cached_log_mels, compute_norm_stats
from .metadata import DataError
from .recordings import column_as_text, load_recordings, rows_where, sound_folder

__all__ = [
    "DataArguments",
    "DataError",
    "HeldOutArguments",
    "LabelledClips",
    "LengthBucketSampler",
    "LogMelCollator",
    "LogMels",
    "PreparedData",
    "VisitedRows",
    "as_groups",
    "cached_log_mels",
    "column_as_text",
    "compute_norm_stats",
    "hold_out",
    "load_recordings",
    "prepare",
    "read_labels",
    "rows_where",
    "sound_folder",
    "take",
]
