"""Reads untrusted checkpoint files without executing anything in them."""

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

ModelType = TypeVar("ModelType", bound=nn.Module)
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


class CheckpointError(ValueError):
    """A checkpoint that cannot be converted; the message names the file or key and what to do."""


class UnsafeCheckpointError(CheckpointError):
    """A pickle that holds more than tensors, numbers and an `argparse.Namespace`; nothing of it was executed."""


@dataclass
class KeyReport:
    """Report on every key of a checkpoint.

    Args:
        used: Keys that were converted.
        ignored: The reason for each key that was not.
        missing: Keys that the model needs and the checkpoint lacks.
        notes: What was assumed, and settings of the checkpoint that the model does not have.
    """

    used: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"used {len(self.used)} keys", *(f"  {key}" for key in self.used)]
        lines += [f"ignored {len(self.ignored)} keys", *(f"  {key}: {why}" for key, why in self.ignored.items())]
        lines += [f"missing {len(self.missing)} keys", *(f"  {key}" for key in self.missing)]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def find_checkpoint(source: str) -> Path:
    """Finds the checkpoint of a source, and downloads it if need be.

    Args:
        source: A file, a folder with one checkpoint, or a repository on the Hugging Face Hub.

    Raises:
        CheckpointError: No such file, folder or repository, or no checkpoint or several in it.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return path / choose([file.name for file in path.iterdir() if file.is_file()], source)
    try:
        names = [name for name in HfApi().list_repo_files(source) if "/" not in name]
        return Path(hf_hub_download(source, choose(names, source)))
    except (HFValidationError, OSError) as error:  # the Hub's own errors are OSErrors
        raise CheckpointError(f"{source} is neither a file nor a folder, and the Hub answers: {error}") from error


def choose(names: list[str], source: str) -> str:
    """Chooses the checkpoint among file names; `model.safetensors` if there are several.

    Raises:
        CheckpointError: No checkpoint, or several.
    """
    found = sorted(name for name in names if name.endswith(SUFFIXES))
    if "model.safetensors" in found:
        return "model.safetensors"
    if len(found) != 1:
        listed = ", ".join(found) or "none"
        raise CheckpointError(f"{source} holds {len(found)} checkpoints ({listed}): name the file to convert.")
    return found[0]


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads the tensors by key, and the other entries of the file, such as `args`, `cfg` or `label_dict`.

    Where a file has several dictionaries of tensors and no tensors beside them, their names come before the keys.

    A pickle is read with `weights_only=True`, which builds only tensors and plain containers, and
    `argparse.Namespace`, which Audio-MAE's training script stores.

    Raises:
        UnsafeCheckpointError: The pickle needs anything else.
        CheckpointError: The file is not a checkpoint of tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path), {}
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        unsafe = [line.strip() for line in reason if "GLOBAL" in line.upper()]
        raise UnsafeCheckpointError(
            f"{path} was refused and nothing in it was run: {unsafe[0] if unsafe else reason[0]} Convert only files "
            "that hold tensors; if you trust this one, load and re-save its weights as safetensors yourself."
        ) from error
    except Exception as error:  # a damaged pickle fails anywhere: KeyError, IndexError, struct.error, ...
        raise CheckpointError(f"{path} cannot be read as a torch checkpoint: {error!r}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    wrapper = next((name for name in ("model", "state_dict") if isinstance(content.get(name), Mapping)), None)
    entries = {key: value for key, value in content.items() if key != wrapper and not isinstance(value, torch.Tensor)}
    weights = content[wrapper] if wrapper else content
    tensors = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    if not tensors:  # several networks in one file
        nested = [(name, part) for name, part in weights.items() if isinstance(part, Mapping)]
        tensors = {
            f"{name}.{key}": value for name, part in nested for key, value in part.items()
            if isinstance(value, torch.Tensor)
        }  # fmt: skip
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors.")
    return tensors, entries


def load_converted(model: ModelType, state: Mapping[str, torch.Tensor], report: KeyReport) -> ModelType:
    """Loads converted tensors into a model.

    Args:
        model: A fresh model.
        state: Tensors by the names of the model.
        report: Report of keys; where it names missing ones, the model stays incomplete.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: Tensors of other shapes than the model's.
    """
    expected = model.state_dict()
    wrong = [
        f"{key} {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}"
        for key, tensor in state.items()
        if tensor.shape != expected[key].shape
    ]
    if wrong:
        raise CheckpointError(f"Shapes contradict each other: {'; '.join(wrong)}.")
    model.load_state_dict(state, strict=not report.missing)
    return model.eval()
