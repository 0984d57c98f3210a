"""Which adapter an encoder has, and how encoders are loaded and saved with the settings of their embedding."""

import os
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .audio_mae import AudioMAEAdapter, BeatsAdapter, SiblingAdapter
from .encoders import EncoderAdapter, base_of
from .settings import LOCATION, EmbeddingSettings
from .spectrogram_transformer import ASTAdapter
from .whisper import WhisperAdapter

ADAPTERS: dict[str, type[EncoderAdapter]] = {
    "audio_mae": AudioMAEAdapter,
    "audio-spectrogram-transformer": ASTAdapter,
    "beats": BeatsAdapter,
    "mae_ast": SiblingAdapter,
    "ssamba": SiblingAdapter,
    "whisper": WhisperAdapter,
}
# Arguments of from_pretrained that a configuration and a feature extractor need as well as the model.
SHARED = (*LOCATION, "code_revision", "trust_remote_code")


def register_encoder(model_type: str, adapter: type[EncoderAdapter]) -> None:
    """Makes an adapter that of all encoders whose configuration has this `model_type`.

    ```python
    class MyAdapter(EncoderAdapter):
        input_name = "spectrogram"

    register_encoder("my_encoder", MyAdapter)
    ```

    Args:
        model_type: The `model_type` of their configurations.
        adapter: The adapter's class; it replaces an earlier one.
    """
    ADAPTERS[model_type] = adapter


def adapter_class(config: Any) -> type[EncoderAdapter]:
    """The adapter's class for encoders of a configuration; [`EncoderAdapter`] where none is registered."""
    return ADAPTERS.get(getattr(config, "model_type", ""), EncoderAdapter)


def make_adapter(encoder: Any, layers_path: str | None = None) -> EncoderAdapter:
    """Makes the adapter of an encoder.

    Args:
        encoder: The encoder, or a `PeftModel` of it.
        layers_path: Path of its list of layers; searched if None.

    Raises:
        EncoderError: The encoder does not meet the contract of its adapter.
        EmbeddingConfigError: Its `embedding_settings` name a layer or pooling that it does not have.
    """
    return adapter_class(getattr(base_of(encoder), "config", None))(encoder, layers_path)


def encoder_from_config(config: PreTrainedConfig) -> PreTrainedModel:
    """Makes an encoder with random weights."""
    return adapter_class(config).from_config(config)


def load_encoder(
    name_or_path: str | os.PathLike, layer: int | None = None, pooling: str | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Loads an encoder with the settings of its embedding.

    Args:
        name_or_path: Folder or Hub repository.
        layer: Layer whose output is the embedding, from 1 on, instead of the recorded one; without its whitening.
        pooling: Pooling instead of the recorded one; without its whitening.
        **kwargs: Keywords of `from_pretrained`.

    Raises:
        OSError: No such folder or repository.
        EmbeddingConfigError: The encoder has no such layer or pooling, or a file of settings cannot be used.
    """
    name = os.fspath(name_or_path)
    shared = {key: kwargs[key] for key in SHARED if key in kwargs}
    config = AutoConfig.from_pretrained(name, **shared)
    kind = adapter_class(config)
    fields = kind.chosen_fields(config, layer, pooling)
    settings = EmbeddingSettings() if kind.own_whitening else EmbeddingSettings.load(name, **shared)
    if layer is not None or pooling is not None:
        layer, pooling = settings.layer if layer is None else layer, pooling or settings.pooling
        settings = EmbeddingSettings() if kind.own_fields else EmbeddingSettings(layer, pooling)
    encoder = kind.load(name, **kwargs, **fields)
    if settings != EmbeddingSettings():
        encoder.embedding_settings = settings  # type: ignore[assignment]
        make_adapter(encoder)  # which checks them
    return encoder


def load_feature_extractor(name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
    """Loads the feature extractor of an encoder, as one that makes log-mels.

    Args:
        name_or_path: Folder or Hub repository.
        **kwargs: Keywords of `from_pretrained`.

    Raises:
        OSError: No such folder or repository, or no feature extractor in it.
    """
    extractor = AutoFeatureExtractor.from_pretrained(name_or_path, **kwargs)
    shared = {key: kwargs[key] for key in SHARED if key in kwargs}
    return make_front_end(AutoConfig.from_pretrained(name_or_path, **shared), extractor)


def make_front_end(config: Any, feature_extractor: Any) -> AudioMAEFeatureExtractor:
    """The feature extractor of log-mels that computes what an encoder's own one does.

    Args:
        config: Configuration of the encoder.
        feature_extractor: Its own feature extractor, or an [`AudioMAEFeatureExtractor`], which stays as it is.
    """
    if isinstance(feature_extractor, AudioMAEFeatureExtractor):
        return feature_extractor
    return adapter_class(config).make_front_end(feature_extractor)


def save_encoder(encoder: Any, folder: str | os.PathLike) -> None:
    """Saves an encoder, or the adapters of a `PeftModel`, with the settings of its embedding.

    Args:
        encoder: The encoder.
        folder: Folder, created if it does not exist.
    """
    encoder.save_pretrained(os.fspath(folder))
    base = base_of(encoder)
    if not adapter_class(base.config).own_whitening:
        settings_of(base).save(folder)


def settings_of(encoder: Any) -> EmbeddingSettings:
    """The settings of an encoder's embedding; the defaults where it has none."""
    return getattr(base_of(encoder), "embedding_settings", None) or EmbeddingSettings()


__all__ = [
    "adapter_class",
    "encoder_from_config",
    "load_encoder",
    "load_feature_extractor",
    "make_front_end",
    "make_adapter",
    "register_encoder",
    "save_encoder",
    "settings_of",
]
