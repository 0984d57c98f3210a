"""What the embedding of an encoder is: layer, pooling and whitening, saved beside the encoder's own files."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.utils.hub import cached_file

CONFIG_FILE = "embedding_config.json"
WHITENING_FILE = "embedding_whitening.safetensors"
# Arguments of from_pretrained that locate a file of the same folder.
LOCATION = ("revision", "subfolder", "token", "cache_dir", "force_download", "local_files_only", "proxies")


class EmbeddingConfigError(ValueError):
    """Settings of an embedding that an encoder cannot have, or a file of them that cannot be used."""


@dataclass
class EmbeddingSettings:
    """Layer, pooling and whitening of an encoder whose own configuration has no fields for them.

    They are the encoder's attribute `embedding_settings`. A folder has them in `embedding_config.json`, with entries
    `layer`, `pooling` and `whitening_size` (null without a whitening), whose tensors `mean` (width,) and `matrix`
    (width, whitening_size), both float32, are in `embedding_whitening.safetensors`; and `max_length`, if it is set.

    Args:
        layer: Number of the layer whose output is pooled, from 1 on; None for the encoder's last output, after its
            final norm.
        pooling: One of the adapter's `poolings`; None for its first one that the encoder has.
        whitening: Mean (width,) and matrix (width, size), float32: the embedding is `(pooled - mean) @ matrix`.
        max_length: Longest window in frames, where the encoder's own feature extractor does not say it; None for what
            the feature extractor says.
    """

    layer: int | None = None
    pooling: str | None = None
    whitening: tuple[torch.Tensor, torch.Tensor] | None = None
    max_length: int | None = None

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files to a folder; a whitening's file that is left from an earlier encoder is removed."""
        file = Path(folder) / WHITENING_FILE
        if self.whitening is None:
            file.unlink(missing_ok=True)
        else:
            mean, matrix = (tensor.detach().float().cpu().contiguous() for tensor in self.whitening)
            save_file({"mean": mean, "matrix": matrix}, file)
        size = None if self.whitening is None else self.whitening[1].shape[1]
        entries = {"layer": self.layer, "pooling": self.pooling, "whitening_size": size}
        entries |= {} if self.max_length is None else {"max_length": self.max_length}
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name_or_path: str | os.PathLike, **location: Any) -> "EmbeddingSettings":
        """Reads the files of a folder or Hub repository; the defaults where there are none.

        Args:
            name_or_path: Folder or Hub repository.
            **location: Keywords of `from_pretrained` that locate a file, such as `revision`.

        Raises:
            EmbeddingConfigError: A file that cannot be used.
        """
        path = find_file(name_or_path, CONFIG_FILE, location)
        if path is None:
            return cls()
        try:
            entries = json.loads(Path(path).read_text(encoding="utf-8"))
            settings = cls(entries.pop("layer"), entries.pop("pooling"), max_length=entries.pop("max_length", None))
            size = entries.pop("whitening_size")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EmbeddingConfigError(
                f"{path} is not as it was saved ({error!r}): expected layer, pooling, whitening_size."
            ) from error
        if entries:
            raise EmbeddingConfigError(f"{path} has {', '.join(sorted(entries))}, which this version does not know.")
        if size is not None:
            file = find_file(name_or_path, WHITENING_FILE, location)
            tensors = load_file(file) if file else {}
            if tensors.keys() != {"mean", "matrix"} or tensors["matrix"].shape != (len(tensors["mean"]), size):
                raise EmbeddingConfigError(
                    f"{path} has whitening_size={size}, and {WHITENING_FILE} no such mean and matrix: copy both files."
                )
            settings.whitening = tensors["mean"], tensors["matrix"]
        return settings


def find_file(name_or_path: str | os.PathLike, file: str, location: dict[str, Any]) -> str | None:
    """Path of a file in a folder or Hub repository; None where there is no such file."""
    found = {name: value for name, value in location.items() if name in LOCATION and value is not None}
    return cached_file(
        name_or_path, file, **found,
        _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip


__all__ = ["CONFIG_FILE", "WHITENING_FILE", "EmbeddingConfigError", "EmbeddingSettings"]
