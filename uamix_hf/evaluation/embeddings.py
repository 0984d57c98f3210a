"""Embeddings of a table of recordings, cached on disk."""

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file, extract_commit_hash

from ..data.checks import checked_batch_size
from ..data.features import source_key
from ..embedding.embedder import AudioEmbedder
from ..embedding.peft_folders import adapter_base
from ..models.front_ends import FrontEnd
from ..training.models import EncoderArguments
from ..version import __version__

logger = logging.getLogger(__name__)

# Folder or Hub repository, perhaps with choices, embedder, or encoder with its feature extractor.
Encoder = str | os.PathLike | EncoderArguments | AudioEmbedder | tuple[PreTrainedModel, FrontEnd]

# What from_pretrained reads of a folder; a run leaves much else in it, which changes without changing the model.
MODEL_FILES = ("*config.json", "*.safetensors", "*.safetensors.index.json", "*.bin")


def is_path(encoder: Encoder) -> TypeGuard[str | os.PathLike | EncoderArguments]:
    """Whether an encoder is given as a folder or repository."""
    return isinstance(encoder, (str, os.PathLike, EncoderArguments))


def source_of(encoder: str | os.PathLike | EncoderArguments) -> EncoderArguments:
    """The folder or repository of an encoder, with what is chosen of its embedding."""
    return encoder if isinstance(encoder, EncoderArguments) else EncoderArguments(os.fspath(encoder))


def load_embedder(encoder: Encoder, device: str | None = None) -> AudioEmbedder:
    """Embedder of an encoder in any form.

    Args:
        encoder: Folder or Hub repository, [`EncoderArguments`], embedder, or encoder with its feature extractor.
        device: Where to load a folder or repository; a GPU if there is one by default. Objects stay where they are.
    """
    if isinstance(encoder, AudioEmbedder):
        return encoder
    if isinstance(encoder, tuple):
        return AudioEmbedder(*encoder)
    return source_of(encoder).load_embedder(device)


def embed_recordings(
    encoder: Encoder,
    recordings: Dataset,
    cache_dir: str | os.PathLike | None = None,
    batch_size: int = 16,
    progress_bar: bool = True,
) -> np.ndarray:
    """Embeddings (recordings, embedding_size) float32 by an encoder in any form.

    Args:
        encoder: Folder or Hub repository, [`EncoderArguments`], embedder, or encoder with its feature extractor.
        recordings: Of [`load_recordings`].
        cache_dir: Where embeddings by a folder or repository are cached; nowhere by default. Those by objects, whose
            weights have no name, are not cached.
        batch_size: Windows in a batch.
        progress_bar: Whether to show one, in recordings.

    Raises:
        AudioInputError: a recording that cannot be embedded, with its name.
    """
    if cache_dir is not None and is_path(encoder) and not source_of(encoder).random_weights:
        return cached_embeddings(encoder, recordings, cache_dir, batch_size, progress_bar)
    batch_size = checked_batch_size(batch_size)
    return load_embedder(encoder).encode(recordings["audio"][:], batch_size, progress_bar)


def cached_embeddings(
    model_path: str | os.PathLike | EncoderArguments,
    recordings: Dataset,
    cache_dir: str | os.PathLike,
    batch_size: int = 16,
    progress_bar: bool = True,
) -> np.ndarray:
    """Embeddings (recordings, embedding_size) float32; a second call with the same model and recordings reads a file.

    Args:
        model_path: Folder or Hub repository of an encoder, identified by the content of its files or by its commit, and
            by what [`EncoderArguments`] choose of its embedding.
        recordings: Of [`load_recordings`]; identified by path, size and time of change.
        cache_dir: Folder of the cache; created if it does not exist.
        batch_size: Windows in a batch.
        progress_bar: Whether to show one, in recordings.

    Raises:
        AudioInputError: a recording that cannot be embedded, with its name.
        OSError: there is no such model.
    """
    batch_size = checked_batch_size(batch_size)  # also where the embeddings are in the cache
    source = source_of(model_path)
    name = source.model_name_or_path
    revision = None if os.path.isdir(name) else hub_commit(name, source.model_revision)
    sources = [source_key(value) for value in recordings["audio"]]
    key = repr((__version__, revision or folder_hash(name), source.choices, sources)).encode()
    file = Path(cache_dir) / f"{hashlib.sha256(key).hexdigest()}.npy"
    vectors = read_vectors(file, len(sources))
    if vectors is None:
        embedder = replace(source, model_revision=revision or source.model_revision).load_embedder()
        vectors = embedder.encode(recordings["audio"][:], batch_size, progress_bar)
        write_vectors(file, vectors)
    return vectors


def folder_hash(folder: str) -> str:
    """SHA-256 of the names and contents of a model's files, with those of the encoder that adapters belong to."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in Path(folder).glob(pattern)}):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    if not Path(folder, CONFIG_NAME).is_file() and (base := adapter_base(folder)):
        digest.update((folder_hash(base.name) if os.path.isdir(base.name) else hub_commit(base.name)).encode())
    return digest.hexdigest()


def hub_commit(repo_id: str, revision: str = "main") -> str:
    """Latest commit of a Hub repository's revision, or the cached one where there is no connection.

    Raises:
        OSError: the repository has no config.json.
    """
    commit = extract_commit_hash(cached_file(repo_id, "config.json", revision=revision), None)
    if commit is None:
        raise OSError(f"{repo_id} has no config.json that could be found: it is not an encoder.")
    return commit


def read_vectors(file: Path, clips: int) -> np.ndarray | None:
    """Embeddings of a cache file; None where it is absent or, with a warning, corrupt.

    Args:
        file: Path of the cache file.
        clips: Number of embeddings that it must hold.
    """
    try:
        vectors = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (EOFError, OSError, ValueError) as error:
        problem = str(error)
    else:
        if vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == clips:
            return vectors
        problem = f"it holds {vectors.dtype} {vectors.shape}"
    logger.warning("%s cannot be used (%s): the embeddings are computed again.", file, problem)
    return None


def write_vectors(file: Path, vectors: np.ndarray) -> None:
    """Write embeddings to a cache file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")  # an interrupted write must not look like a finished one
    try:
        with open(partial, "wb") as out:
            np.save(out, vectors)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


__all__ = ["Encoder", "cached_embeddings", "embed_recordings", "is_path", "load_embedder", "source_of"]
