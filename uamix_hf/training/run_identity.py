"""Identity of a run, saved in its checkpoints as run.json, so that no other run resumes from them by mistake."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from .checkpoints import RunCheckpointError

logger = logging.getLogger(__name__)

FILE = "run.json"

# Training arguments that may change on resuming: paths, logging, saving, uploading, devices and speed. All others
# determine what is learnt.
MAY_CHANGE = frozenset((
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name", "project", "ignore_data_skip",
    "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "report_to", "disable_tqdm", "debug",
    "logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_level",
    "log_level_replica", "log_on_each_node", "include_num_input_tokens_seen", "skip_memory_metrics", "reconstructions",
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps", "eval_do_concat_batches",
    "eval_use_gather_object", "per_device_eval_batch_size", "prediction_loss_only", "include_for_metrics",
    "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval", "knn_steps", "whiten", "interpolate", "do_train",
    "do_eval", "do_predict", "save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node",
    "enable_jit_checkpoint", "restore_callback_states_from_checkpoint", "push_to_hub", "hub_token", "hub_private_repo",
    "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision",
    "use_cpu", "local_rank", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_find_unused_parameters",
    "ddp_broadcast_buffers", "ddp_static_graph", "fsdp", "fsdp_config", "deepspeed", "tf32", "torch_compile",
    "torch_compile_backend", "torch_compile_mode", "use_liger_kernel", "liger_kernel_config", "use_cache",
    "torch_empty_cache_steps", "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing",
    "activation_checkpointing_kwargs", "encoder_batch_size", "auto_find_batch_size", "full_determinism",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
))  # fmt: skip

# These may change as well, with a warning that the resumed run is not equal to an uninterrupted one.
MAY_CHANGE_WITH_WARNING = frozenset((
    "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "processes",
    "bf16", "fp16",
))  # fmt: skip

# Fields of configurations that do not describe the model, or (class names) are compared elsewhere.
IGNORED_FIELDS = frozenset((
    "transformers_version", "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id",
    "base_model_name_or_path", "inference_mode", "peft_version",
))  # fmt: skip

# Levels of different clips differ by more. Levels of the same clip on another processor differ by a hundredth of it.
LEVEL_TOLERANCE = 1e-3


class AnotherRunError(RunCheckpointError):
    """The checkpoint to resume from has other settings or data, or they are unknown."""


# --- identities


def arguments_identity(args: TrainingArguments) -> dict[str, Any]:
    """Identity of training arguments: those that determine what is learnt."""
    values = {name: value for name, value in args.to_dict().items() if name not in MAY_CHANGE}
    if not args.load_best_model_at_end:  # they only affect logging then
        values |= {"metric_for_best_model": None, "greater_is_better": None}
    return values


def config_identity(config: Any) -> dict[str, Any] | None:
    """Identity of the configuration of a model, an adapter or a feature extractor, with nested ones."""

    def kept(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: kept(part) for name, part in value.items() if name not in IGNORED_FIELDS}
        return sorted(value) if isinstance(value, (set, frozenset)) else value

    return None if config is None else kept(config.to_dict())


def base_identity(config: Any) -> dict[str, str | None]:
    """Identity of the model that training starts from.

    A hash of its weights, independent of the folder, or a commit of the Hub; None for random weights.
    """
    name = getattr(config, "_name_or_path", None) or None
    if name is None or not Path(name).is_dir():
        return {"name": name, "weights": getattr(config, "_commit_hash", None) or name}
    total = hashlib.sha256()
    for path in sorted(path for ending in ("*.safetensors", "*.bin") for path in Path(name).glob(ending)):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return {"name": Path(name).resolve().name, "weights": total.hexdigest()[:16]}


def data_identity(dataset: Any) -> dict[str, Any] | None:
    """Identity of clips in their order: ids, labels and levels, but no paths, as data may move.

    A stream has a method `identity` instead.
    """
    if dataset is None:
        return None
    if hasattr(dataset, "identity"):
        return dataset.identity()
    columns = getattr(dataset, "column_names", [])
    if not columns:
        return {"kind": type(dataset).__name__}
    plain = dataset.with_format(None)
    digests = {name: digest(plain[name][:]) for name in ("sample_id", "labels") if name in columns}
    return {"clips": len(dataset), **digests} | ({"levels": levels(dataset)} if "features" in columns else {})


def digest(values: Any) -> str:
    """Short hash of JSON values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def levels(dataset: Any) -> list[list[float]]:
    """Levels of clips: means of the first and of the last half of each log-mel, (clips, 2)."""
    means = []
    for row in dataset.select_columns("features").with_format("numpy"):
        mel = row["features"]
        half = -(-len(mel) // 2)
        means.append([round(float(part.mean(dtype=np.float32)), 4) for part in (mel[:half], mel[-half:])])
    return means


# --- differences


def differences(made_by: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yields the name and description of each difference between two identities."""
    if isinstance(made_by, Mapping) and isinstance(now, Mapping) and bool(made_by) == bool(now):
        if made_by.get("clips") != now.get("clips"):  # then everything else differs as well
            made_by, now = ({"clips": part.get("clips")} for part in (made_by, now))
        for name in sorted(made_by.keys() | now.keys()):
            if name in made_by and name in now:
                yield from differences(made_by[name], now[name], (*path, name))
            else:
                logger.warning(
                    "%s is known only for %s and not compared.",
                    name,
                    "the checkpoint" if name in made_by else "this run",
                )
    elif path[-1:] == ("levels",):
        yield from clip_differences(np.asarray(made_by), np.asarray(now), ".".join(path[:-1]))
    elif not same(made_by, now):
        name = ".".join(path[1:] if path[0] == "arguments" else path)
        yield name, f"{name}: checkpoint {shorten(made_by)}, now {shorten(now)}"


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; floats may differ by rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def shorten(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


def clip_differences(made_by: np.ndarray, now: np.ndarray, name: str) -> Iterator[tuple[str, str]]:
    """Yields the difference of two arrays of levels (clips, 2), if any."""

    def close(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.isclose(one, other, rtol=0, atol=LEVEL_TOLERANCE, equal_nan=True).all(axis=1)

    rows = np.flatnonzero(~close(made_by, now))
    if len(rows) == 0:
        return
    ordered = (part[np.lexsort(part.T[::-1])] for part in (made_by, now))
    if close(*ordered).all():
        yield name, f"{name}: the same clips in another order, from row {rows[0]} on"
    else:
        yield name, f"{name}: {len(rows)} of {len(now)} clips differ, the first in row {rows[0]}"


# --- files


def write_identity(checkpoint: str | Path, identity: Mapping[str, Any]) -> None:
    """Writes the identity of a run into a checkpoint."""
    lines = (f"{json.dumps(name)}: {json.dumps(part, default=str)}" for name, part in identity.items())
    (Path(checkpoint) / FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def check_identity(
    checkpoint: str | Path, identity: Mapping[str, Any], warned: frozenset[str], ignored: frozenset[str]
) -> None:
    """Checks that a checkpoint was made by a run of the same identity.

    Args:
        checkpoint: Folder of the checkpoint.
        identity: Identity of the run that resumes from it.
        warned: Names of entries that may differ, with a warning.
        ignored: Names of entries that may differ.

    Raises:
        AnotherRunError: Another entry differs (the message has both values), or the checkpoint has no identity.
    """
    file = Path(checkpoint) / FILE
    if not file.is_file():
        raise AnotherRunError(
            f"{checkpoint} has no {FILE}, so the run that made it is unknown: checkpoints of earlier versions cannot "
            "be resumed from. Start a new run in another output_dir."
        )
    made_by = json.loads(file.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(identity, default=str))
    found = [entry for entry in differences(made_by, now) if entry[0] not in ignored | {"base_model.name"}]
    refused = [text for name, text in found if name not in warned]
    if refused:
        raise AnotherRunError(
            f"{checkpoint} was made by another run. {'; '.join(refused)}. Use the same settings and data, or start a "
            "new run in another output_dir."
        )
    if found:
        logger.warning(
            "Resuming from %s with other settings, so the run will not equal an uninterrupted one. %s.",
            checkpoint, "; ".join(text for _, text in found),
        )  # fmt: skip


__all__ = [
    "MAY_CHANGE",
    "MAY_CHANGE_WITH_WARNING",
    "AnotherRunError",
    "arguments_identity",
    "base_identity",
    "check_identity",
    "config_identity",
    "data_identity",
    "digest",
    "write_identity",
]
