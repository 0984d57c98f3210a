"""Compare encoders by few-shot and other protocols, in one call."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from ..data import leave_out_unreadable, load_recordings, read_labels
from ..metrics.checks import EvaluationError
from .arguments import ProtocolArguments
from .embeddings import Encoder, embed_recordings, is_path, load_embedder, source_of
from .protocols import evaluate_embeddings, protocol_splits
from .results import result_tree


def evaluate_encoders(
    encoders: Mapping[str, Encoder],
    recordings: Dataset | str | os.PathLike | Sequence[str | os.PathLike],
    label_column: str = "label",
    protocols: ProtocolArguments | None = None,
    *,
    label_separator: str | None = None,
    group_column: str | None = None,
    fold_column: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    batch_size: int = 16,
    progress_bar: bool = True,
    output_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Evaluate encoders on labelled recordings, all on the same splits and episodes.

    ```python
    encoders = {"base": "audio-mae", "tuned": (model, feature_extractor)}
    results = evaluate_encoders(encoders, "recordings", group_column="speaker", output_dir="results")
    print(score_table(results))
    ```

    Args:
        encoders: Encoders by name: folder or Hub repository, [`EncoderArguments`] of one, [`AudioEmbedder`], or encoder
            with its feature extractor. The first is the baseline that the others are compared with.
        recordings: Table of [`load_recordings`], or folders of audio.
        label_column: Column of the labels.
        protocols: Protocols and their settings; few-shot episodes by default.
        label_separator: What separates the labels of a clip that has several, such as `;` in `dog;rain`.
        group_column: Speaker or source of each clip, which labelled and test clips never share.
        fold_column: Official folds, for low_shot, fine_tune and linear; random splits by default.
        on_error: `"raise"`, or `"skip"` to leave unreadable recordings out.
        batch_size: Windows of audio in a batch.
        progress_bar: Whether to show progress.
        output_dir: Where `results.json`, `report.html` and plots are written, which needs matplotlib and jinja2;
            nowhere by default.
        cache_dir: Where embeddings by folders and repositories are cached; `output_dir/embeddings` by default.
            Those by objects are not cached.
        settings: Further settings to record under `arguments`, such as where the recordings are from.
        command: Command line, for the report.

    Returns:
        The results tree, see [`result_tree`]: `results["models"]` in the order of `encoders`, each with its `scores`
        (`mean`, `interval`, `by_class`), and `results["comparisons"]` with the first encoder.

    Raises:
        DataError: no such folder or column, or a clip without a label.
        EvaluationError: no encoders, or labels that cannot be evaluated by a protocol.
        AudioInputError: an unreadable recording, unless they are skipped.
        OSError: no such encoder.
    """
    if not encoders:
        raise EvaluationError("There are no encoders to evaluate.")
    if cache_dir is not None and not any(map(is_path, encoders.values())):
        raise EvaluationError("cache_dir: only embeddings by encoders that are given as a folder are cached.")
    if output_dir is not None:
        from .report import write_plots, write_report  # takes matplotlib; here, not after hours of embedding
    protocols = protocols or ProtocolArguments()
    if not isinstance(recordings, Dataset):
        settings = {"data_dir": as_paths(recordings)} | dict(settings or {})
        recordings = load_recordings(as_paths(recordings))
    skipped: dict[str, str] = {}
    if on_error == "skip":
        recordings, skipped = leave_out_unreadable(recordings)
    clips = read_labels(recordings, label_column, label_separator, group_column, fold_column)
    splits = protocol_splits(clips, protocols)
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        cache_dir = cache_dir or Path(output_dir) / "embeddings"
    embeddings = {
        name: embed_recordings(encoder, recordings, cache_dir, batch_size, progress_bar)
        for name, encoder in encoders.items()
    }
    measurements = {
        name: evaluate_embeddings(embeddings[name], clips, splits, protocols, encoder, recordings)
        for name, encoder in encoders.items()
    }
    columns = {
        "label_column": label_column,
        "label_separator": label_separator,
        "group_column": group_column,
        "fold_column": fold_column,
    }
    arguments = columns | {"batch_size": batch_size} | dict(settings or {}) | asdict(protocols)
    results = result_tree(arguments, clips, {name: origin(one) for name, one in encoders.items()}, measurements)
    results["data"]["skipped"] = skipped
    if output_dir is not None:
        folder = Path(output_dir)
        text = json.dumps(results, indent=2, allow_nan=False, default=str)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
        plots = write_plots(folder, results, embeddings, clips.labels)
        write_report(folder / "report.html", results, plots, command)
    return results


def as_paths(folders: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """Paths of one folder or several."""
    return [os.fspath(one) for one in ([folders] if isinstance(folders, (str, os.PathLike)) else folders)]


def origin(encoder: Encoder) -> str:
    """Folder or repository of an encoder, with what is chosen, or the class of one that is given as an object."""
    if not is_path(encoder):
        return f"{type(load_embedder(encoder).model).__name__} in memory"
    source = source_of(encoder)
    return ", ".join([source.model_name_or_path, *(f"{name}={value}" for name, value in source.choices.items())])


__all__ = ["evaluate_encoders"]
