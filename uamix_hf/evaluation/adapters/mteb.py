"""Encoders as models of mteb, whose audio benchmark is MAEB (needs the extra `benchmarks`)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from datasets import Audio, Dataset
from torch.utils.data import DataLoader
from tqdm.auto import trange

from ...embedding import AudioEmbedder, EncoderError
from ...embedding.weights import weights_digest
from ...version import __version__

try:
    from mteb import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.types import EncodeKwargs, PromptType
except ImportError as error:
    raise ImportError(f"{__name__} needs mteb 2.26: pip install 'uamix_hf[benchmarks]'.") from error


class MtebEncoder(AbsEncoder):
    """An encoder as a model of mteb: classification, clustering, pair classification, reranking, retrieval of audio.

    With CLAP's `pooling="projection"` also the tasks of audio and text: zero-shot classification and retrieval.

    ```python
    import mteb

    results = mteb.evaluate(MtebEncoder("tuned"), mteb.get_tasks(tasks=["GTZANGenre"]))
    ```

    mteb keeps results by name and revision. The revision here is a hash of the weights and settings, so that an encoder
    that was tuned anew in the same folder has results of its own.

    Args:
        model_name: Folder or Hub repository of an encoder.
        revision: Revision of the repository.
        device: As in [`AudioEmbedder.from_pretrained`].
        meta: Fields of `mteb.ModelMeta`, such as `training_datasets`, for a submission.
        **kwargs: Further keywords of [`AudioEmbedder.from_pretrained`], such as `embedding_layer` and `pooling`.

    Raises:
        OSError: No such folder or repository.
        EmbeddingConfigError: The encoder has no such layer or pooling.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        meta: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        located = kwargs if revision is None else kwargs | {"revision": revision}
        self.embedder = AudioEmbedder.from_pretrained(model_name, device, **located)
        chosen = ("embedding_layer", "pooling", "max_length")
        loading = {name: value for name, value in located.items() if name not in chosen}
        self.text = self.embedder.adapter.text_encoder(model_name, **loading)
        self.mteb_model_meta: ModelMeta = ModelMeta(**described(model_name, self) | dict(meta or {}))

    def encode(
        self,
        inputs: DataLoader,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> np.ndarray:
        """Computes embeddings of the recordings or texts of a task.

        Recordings are decoded as everywhere in this package, at any rate, and nothing of them is cut off.

        Args:
            inputs: Rows with a column `audio` or `text`.
            task_metadata: Of the task; no prompt depends on it.
            hf_split: As `task_metadata`.
            hf_subset: As `task_metadata`.
            prompt_type: As `task_metadata`.
            **kwargs: `batch_size` of windows or texts, 32 by default, and `show_progress_bar`.

        Returns:
            (rows, embedding_size) float32.

        Raises:
            AudioInputError: A recording that cannot be embedded; the message names it.
            EncoderError: Text, and an encoder without text; or rows of another kind.
            TypeError: Another keyword, such as `precision`.
        """
        batch_size, show_progress_bar = kwargs.pop("batch_size", 32), kwargs.pop("show_progress_bar", True)
        if kwargs:
            raise TypeError(
                f"{type(self).__name__}.encode has no argument {', '.join(kwargs)}: embeddings are float32."
            )
        rows: Any = inputs.dataset
        columns = sorted({"text", "audio", "image", "video"} & set(rows.column_names))
        if columns == ["audio"]:
            return self.embedder.encode(undecoded(rows)["audio"], batch_size, show_progress_bar)
        if columns != ["text"] or self.text is None:
            raise EncoderError(
                f"{task_metadata.name} has rows of {' and '.join(columns) or 'nothing'}, and "
                f"{self.mteb_model_meta.name} embeds {' or '.join(self.modalities)}: leave the task out"
                + (", or take a model with pooling='projection', as CLAP has." if columns == ["text"] else ".")
            )
        texts = list(rows["text"])
        starts = trange(0, len(texts), batch_size, desc="Embedding", disable=not show_progress_bar)
        batches = [self.text.encode(texts[start : start + batch_size], self.embedder.device) for start in starts]
        return np.concatenate(batches)

    @property
    def modalities(self) -> list[str]:
        """What the model embeds."""
        return ["audio"] if self.text is None else ["audio", "text"]


def undecoded(rows: Dataset) -> Dataset:
    """Rows whose audio is left as its file, for [`load_audio`]."""
    return rows.cast_column("audio", Audio(decode=False)) if isinstance(rows.features["audio"], Audio) else rows


def described(name_or_path: str, model: MtebEncoder) -> dict[str, Any]:
    """The fields of `mteb.ModelMeta` of an encoder.

    Args:
        name_or_path: Folder or Hub repository.
        model: The encoder.
    """
    weights = list(model.embedder.model.parameters())
    local = Path(name_or_path).is_dir()
    return {
        "loader": None,
        "name": f"local/{Path(name_or_path).resolve().name}" if local else name_or_path,
        "revision": fingerprint(model),
        "release_date": None,
        "languages": None,
        "n_parameters": sum(weight.numel() for weight in weights),
        "memory_usage_mb": round(sum(weight.nbytes for weight in weights) / 2**20),
        "max_tokens": None,
        "embed_dim": model.embedder.embedding_size,
        "license": None,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["PyTorch", "Transformers"],
        "similarity_fn_name": "cosine",
        "use_instructions": False,
        "training_datasets": None,
        "modalities": model.modalities,
    }


def fingerprint(model: MtebEncoder) -> str:
    """Hash of all that an embedding depends on: weights, configuration, front end, settings and this package."""
    embedder = model.embedder
    texts = (embedder.model.config.to_json_string(), embedder.feature_extractor.to_json_string())
    whole = "\n".join((__version__, weights_digest(embedder), *texts))
    return hashlib.sha256(whole.encode()).hexdigest()[:40]


__all__ = ["MtebEncoder"]
