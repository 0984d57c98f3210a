"""Which checkpoints of a run are whole, so that it can go on from them."""

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)

# Parts without which a run cannot go on as if it had never stopped, by their names on one device, on several, and under
# FSDP and DeepSpeed.
PARTS = (
    ("model.safetensors", "model-*.safetensors", "pytorch_model_fsdp*", "global_step*"),
    ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    ("scheduler.pt", "global_step*"),
    ("rng_state.pth", "rng_state_*.pth"),
    ("trainer_state.json",),
)


class RunCheckpointError(OSError):
    """A checkpoint could not be written, or one that was asked for is not whole."""


def check_readable(path: Path) -> None:
    """Opens a file as far as shows that its end is there; what it holds is not read.

    Raises:
        OSError, ValueError, SafetensorError, zipfile.BadZipFile: it is not whole.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            pass
    elif path.suffix in (".pt", ".pth", ".bin"):  # of torch.save: a zip archive, whose directory is at the end
        with zipfile.ZipFile(path):
            pass
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))


def checkpoint_problem(checkpoint: str | Path) -> str | None:
    """Why a run cannot go on from this folder (`"no optimizer.pt"`), or None."""
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
    return int(checkpoint.name.split("-")[1])


def numbered_checkpoints(folder: str | Path) -> list[Path]:
    """The folders `checkpoint-STEP` of a run, the highest step first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest `checkpoint-*` of a folder from which a run can go on; broken ones are passed over, and said."""
    for path in numbered_checkpoints(folder):
        problem = checkpoint_problem(path)
        if problem is None:
            return str(path)
        logger.warning("%s is incomplete (%s) and passed over.", path, problem)
    return None


def remove_broken_checkpoints(folder: str | Path, after: int) -> None:
    """Deletes those of a step higher than `after` from which no run can go on: where files have no true times, the
    highest step is held for the newest, and the ones to go on from are deleted in its place."""
    for path in numbered_checkpoints(folder):
        problem = checkpoint_problem(path) if step_of(path) > after else None
        if problem is not None:
            logger.warning("%s is incomplete (%s) and deleted.", path, problem)
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_to_resume(asked: str | bool | None, folders: Sequence[str | Path], overwrite: bool) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means: `"true"` is the newest complete one of the first folder that
    has any, or none, which is said.

    Raises:
        ValueError: the newest is asked for, and that all are removed. RunCheckpointError: the one that is asked for is
            not whole.
    """
    if not asked or str(asked).lower() == "false":
        return None
    if str(asked).lower() == "true":
        if overwrite:
            raise ValueError("overwrite_output_dir removes what resume_from_checkpoint would go on from: give one.")
        found = next(filter(None, map(last_complete_checkpoint, folders)), None)
        if found is None:
            logger.warning("There is no complete checkpoint in %s to resume from: starting afresh.", folders[0])
        return found
    problem = checkpoint_problem(str(asked))
    if problem:
        raise RunCheckpointError(f"{asked} cannot be resumed from: {problem}.")
    return str(asked)


def make_way(folder: str | Path, start: int, overwrite: bool) -> None:
    """Sees to it that a run does not start in a folder with complete checkpoints of another, which would be taken for
    its own. Incomplete ones never are.

    Args:
        start: Step of the folder's own checkpoint that the run goes on from, 0 for none: then there may be none at all.
        overwrite: Those of later steps are removed.

    Raises:
        RunCheckpointError: there are such checkpoints, and they are not to be overwritten.
    """
    later = [path for path in numbered_checkpoints(folder) if step_of(path) > start]
    if overwrite:
        for path in later:
            logger.warning("%s is removed, as overwrite_output_dir says.", path)
            shutil.rmtree(path, ignore_errors=True)
    elif start == 0 and (whole := [path.name for path in later if checkpoint_problem(path) is None]):
        raise RunCheckpointError(
            f"{folder} holds checkpoints of an earlier run ({', '.join(whole)}), which would be taken for this run's: "
            "go on from the last with --resume_from_checkpoint true, choose another --output_dir, or let them be "
            "removed by --overwrite_output_dir true."
        )


def best_checkpoint(checkpoint: str | Path, best_step: int | None, recorded: str | None) -> str | None:
    """Where the best checkpoint is that the state of another one tells of: beside it, since a run's folder may have
    been moved or copied after its path was recorded. None where there is none, or where it is gone."""
    beside = Path(checkpoint).parent / f"checkpoint-{best_step}"
    return next((str(path) for path in (beside, Path(recorded or "")) if recorded and path.is_dir()), None)


__all__ = [
    "RunCheckpointError",
    "best_checkpoint",
    "checkpoint_to_resume",
    "last_complete_checkpoint",
    "make_way",
    "remove_broken_checkpoints",
    "checkpoint_problem",
]
