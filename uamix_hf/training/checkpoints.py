"""Complete and broken checkpoints of a run."""

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)

# Parts that a run needs to resume exactly, by their names on one device, on several, and under FSDP and DeepSpeed.
PARTS = (
    ("model.safetensors", "model-*.safetensors", "pytorch_model_fsdp*", "global_step*"),
    ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    ("scheduler.pt", "global_step*"),
    ("rng_state.pth", "rng_state_*.pth"),
    ("trainer_state.json",),
)


class RunCheckpointError(OSError):
    """A checkpoint that could not be written, or that is incomplete and cannot be resumed from."""


def check_readable(path: Path) -> None:
    """Opens a file of a checkpoint to check that it is complete, without reading its content.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON.
        SafetensorError: It is not a complete safetensors file.
        zipfile.BadZipFile: It is not a complete file of `torch.save`.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            pass
    elif path.suffix in (".pt", ".pth", ".bin"):  # a zip archive, whose directory is at the end
        with zipfile.ZipFile(path):
            pass
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))


def checkpoint_problem(checkpoint: str | Path) -> str | None:
    """Reason why a run cannot resume from a folder, such as `"no optimizer.pt"`, or None."""
    folder = Path(checkpoint)
    for names in PARTS:
        if not any(any(folder.glob(name)) for name in names):
            return f"no {names[0]}"
    for path in sorted(folder.iterdir()):
        try:
            check_readable(path)
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as problem:
            return f"{path.name} is damaged, {problem}"
    return None


def step_of(checkpoint: Path) -> int:
    """Step of a folder `checkpoint-STEP`."""
    return int(checkpoint.name.split("-")[1])


def numbered_checkpoints(folder: str | Path) -> list[Path]:
    """Folders `checkpoint-STEP` of a run, the highest step first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Newest complete `checkpoint-STEP` of a folder, or None; warns of broken ones that are skipped."""
    for path in numbered_checkpoints(folder):
        problem = checkpoint_problem(path)
        if problem is None:
            return str(path)
        logger.warning("%s is incomplete (%s) and skipped.", path, problem)
    return None


def remove_broken_checkpoints(folder: str | Path, after: int) -> None:
    """Deletes incomplete checkpoints of steps after `after`.

    On file systems without reliable times, transformers treats the highest step as the newest, and would keep them and
    delete the complete ones.
    """
    for path in numbered_checkpoints(folder):
        problem = checkpoint_problem(path) if step_of(path) > after else None
        if problem is not None:
            logger.warning("%s is incomplete (%s) and deleted.", path, problem)
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_to_resume(asked: str | bool | None, folders: Sequence[str | Path], overwrite: bool) -> str | None:
    """Finds the checkpoint of `resume_from_checkpoint`.

    Args:
        asked: A checkpoint, or true for the newest complete one of the first folder that has any; without any, the run
            starts from the beginning, with a warning.
        folders: Folders to search.
        overwrite: Value of `overwrite_output_dir`.

    Raises:
        ValueError: The newest checkpoint is requested, and `overwrite_output_dir` removes it.
        RunCheckpointError: The requested checkpoint is incomplete.
    """
    if not asked or str(asked).lower() == "false":
        return None
    if str(asked).lower() == "true":
        if overwrite:
            raise ValueError("overwrite_output_dir removes what resume_from_checkpoint would resume from: give one.")
        found = next(filter(None, map(last_complete_checkpoint, folders)), None)
        if found is None:
            logger.warning("There is no complete checkpoint in %s to resume from: starting afresh.", folders[0])
        return found
    problem = checkpoint_problem(str(asked))
    if problem:
        raise RunCheckpointError(f"{asked} cannot be resumed from: {problem}.")
    return str(asked)


def prepare_output_dir(folder: str | Path, start: int | None, overwrite: bool) -> None:
    """Ensures that an output folder has no complete checkpoints of another run, which could be mistaken for this one's.

    Args:
        folder: The output folder.
        start: Step of its checkpoint that the run resumes from, None for none. Then it must have no complete one.
        overwrite: Whether to remove checkpoints of later steps.

    Raises:
        RunCheckpointError: There are such checkpoints.
    """
    later = [path for path in numbered_checkpoints(folder) if step_of(path) > (-1 if start is None else start)]
    if overwrite:
        for path in later:
            logger.warning("%s is removed because of overwrite_output_dir.", path)
            shutil.rmtree(path, ignore_errors=True)
    elif start is None and (whole := [path.name for path in later if checkpoint_problem(path) is None]):
        raise RunCheckpointError(
            f"{folder} holds checkpoints of an earlier run ({', '.join(whole)}), which could be mistaken for this "
            "run's: resume from the last with --resume_from_checkpoint true, choose another --output_dir, or remove "
            "them by --overwrite_output_dir true."
        )


def best_checkpoint(checkpoint: str | Path, best_step: int | None, recorded: str | None) -> str | None:
    """Finds the best checkpoint that the state of another one refers to, or None.

    It is searched beside the other one first, because the run's folder may have been moved or copied.

    Args:
        checkpoint: The checkpoint with the state.
        best_step: Step of the best one.
        recorded: Path of the best one in the state.
    """
    beside = Path(checkpoint).parent / f"checkpoint-{best_step}"
    return next((str(path) for path in (beside, Path(recorded or "")) if recorded and path.is_dir()), None)


__all__ = [
    "RunCheckpointError",
    "best_checkpoint",
    "checkpoint_to_resume",
    "last_complete_checkpoint",
    "prepare_output_dir",
    "remove_broken_checkpoints",
    "checkpoint_problem",
]
