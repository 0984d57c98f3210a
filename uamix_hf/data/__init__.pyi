from .arguments import DataArguments, PreparedData, prepare, prepare_recordings
from .batches import FeatureCollator, LengthBucketSampler, VisitedRows
from .features import CachedFeatures, cached_features, compute_norm_stats
from .folders import audio_folder
from .groups import as_groups, read_groups
from .held_out import HeldOutArguments, select_rows, split_held_out
from .labels import LabelledClips, read_classes, read_labels
from .metadata import DataError
from .recordings import leave_out_unreadable, load_recordings, report_skipped
from .sources import TrainingData, open_recordings, training_data
from .where import column_as_text, rows_where

__all__ = [
    "DataArguments",
    "DataError",
    "HeldOutArguments",
    "LabelledClips",
    "LengthBucketSampler",
    "FeatureCollator",
    "CachedFeatures",
    "PreparedData",
    "TrainingData",
    "VisitedRows",
    "as_groups",
    "cached_features",
    "column_as_text",
    "compute_norm_stats",
    "leave_out_unreadable",
    "load_recordings",
    "open_recordings",
    "prepare",
    "prepare_recordings",
    "read_classes",
    "read_groups",
    "read_labels",
    "report_skipped",
    "rows_where",
    "select_rows",
    "audio_folder",
    "split_held_out",
    "training_data",
]
