"""Which adapter an encoder has, and how encoders are loaded with the settings of their embedding."""

import copy
import logging
import os
from dataclasses import replace
from typing import Any

from transformers import AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel
from transformers.utils import FEATURE_EXTRACTOR_NAME

from ..models.front_ends import FrontEnd
from .audio_mae import AudioMAEAdapter, BeatsAdapter, SiblingAdapter, SSAMBAAdapter
from .clap import ClapAdapter
from .convolutions import takes_waveforms
from .encoders import EncoderAdapter, base_of
from .peft_folders import AdapterBase, load_config, merge_folder
from .settings import CONFIG_FILE, LOCATION, EmbeddingConfigError, EmbeddingSettings, find_file
from .spectrogram_transformer import ASTAdapter
from .wav2vec2_bert import Wav2Vec2BertAdapter
from .waveform import WaveformAdapter
from .whisper import AudioTowerAdapter, AveragingAudioTowerAdapter, WhisperAdapter

logger = logging.getLogger(__name__)

LEFT_OUT = (
    "%s has a whitening of another embedding than that of layer=%s, pooling=%s: it is left out. "
    "AudioEmbedder.fit_whitening fits one to the embedding that you chose."
)

ADAPTERS: dict[str, type[EncoderAdapter]] = {
    "audio_mae": AudioMAEAdapter,
    "audioflamingo3": AveragingAudioTowerAdapter,
    "audioflamingo3_encoder": AveragingAudioTowerAdapter,
    "audio-spectrogram-transformer": ASTAdapter,
    "beats": BeatsAdapter,
    "clap": ClapAdapter,
    "clap_audio_model": ClapAdapter,
    "mae_ast": SiblingAdapter,
    "musicflamingo": AveragingAudioTowerAdapter,
    "qwen2_audio": AveragingAudioTowerAdapter,
    "qwen2_audio_encoder": AveragingAudioTowerAdapter,
    "ssamba": SSAMBAAdapter,
    "voxtral": AudioTowerAdapter,
    "voxtral_encoder": AudioTowerAdapter,
    "wav2vec2-bert": Wav2Vec2BertAdapter,
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
    """The adapter's class for encoders of a configuration.

    Where none is registered, it is [`WaveformAdapter`] for configurations with convolutions of a waveform, and
    [`EncoderAdapter`] for others.
    """
    other = WaveformAdapter if takes_waveforms(config) else EncoderAdapter
    return ADAPTERS.get(getattr(config, "model_type", ""), other)


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

    From a folder of adapters alone, such as LoRA's, their encoder is loaded, and the adapters are merged into it.

    Args:
        name_or_path: Folder or Hub repository.
        layer: Layer whose output is the embedding, from 1 on, instead of the recorded one. A whitening that was fitted
            to another layer is left out, with a warning.
        pooling: Pooling instead of the recorded one; as with the layer.
        **kwargs: Keywords of `from_pretrained`.

    Raises:
        OSError: No such folder or repository.
        EmbeddingConfigError: The encoder has no such layer or pooling, or a file of settings cannot be used.
    """
    name = os.fspath(name_or_path)
    if "torch_dtype" in kwargs:  # its former name, which not every class's own loading knows
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
    shared = {key: kwargs[key] for key in SHARED if key in kwargs}
    config, base = load_config(name, **shared)
    if base is not None:
        return load_merged(name, base, layer, pooling, **kwargs)
    kind = adapter_class(config)
    fields = kind.chosen_fields(config, layer, pooling)
    chosen = fields.keys() - {"whitening_size"}
    if kind.own_fields and all(getattr(config, field, None) == fields[field] for field in chosen):
        fields = {}  # what is recorded
    encoder = kind.load(name, **kwargs, **fields)
    settings = settings_of(encoder)  # those of a classifier are in its configuration
    if settings == EmbeddingSettings() and not kind.own_whitening:
        settings = EmbeddingSettings.load(name, **shared)
    same = not fields if kind.own_fields else is_same(kind, settings, layer, pooling)
    if not same and (settings.whitening is not None or getattr(config, "whitening_size", None)):
        logger.warning(LEFT_OUT, name, layer, pooling)
        settings = replace(settings, whitening=None)
    if not kind.own_fields:
        layer, pooling = settings.layer if layer is None else layer, pooling or settings.pooling
        settings = replace(settings, layer=layer, pooling=pooling)
    if settings != settings_of(encoder):
        encoder.embedding_settings = settings  # type: ignore[assignment]
        make_adapter(encoder)  # which checks them
    return encoder


def is_same(kind: type[EncoderAdapter], recorded: EmbeddingSettings, layer: int | None, pooling: str | None) -> bool:
    """Whether a chosen layer and pooling are the recorded ones, so that a whitening is of their embedding."""
    return layer in (None, recorded.layer) and pooling in (None, recorded.pooling or kind.poolings[0])


def load_merged(name: str, base: AdapterBase, layer: int | None, pooling: str | None, **kwargs: Any) -> PreTrainedModel:
    """As [`load_encoder`], for a folder of adapters.

    Args:
        name: Folder or Hub repository of the adapters.
        base: What they belong to.
        layer: As in [`load_encoder`].
        pooling: As in [`load_encoder`].
        **kwargs: Keywords of `from_pretrained`.
    """
    location = {key: kwargs[key] for key in LOCATION if key in kwargs}
    recorded = None
    if find_file(name, CONFIG_FILE, location):
        recorded = EmbeddingSettings.load(name, **location)
    chosen = recorded or EmbeddingSettings()
    encoder = load_encoder(
        base.name, chosen.layer if layer is None else layer, pooling or chosen.pooling, **base.options(kwargs)
    )
    encoder = merge_folder(encoder, name, **location)
    if recorded is not None:
        kind, whitening = adapter_class(encoder.config), recorded.whitening
        if whitening is not None and not is_same(kind, recorded, layer, pooling):
            logger.warning(LEFT_OUT, name, layer, pooling)
            whitening = None
        kind.set_whitening(encoder, whitening)
        if recorded.max_length is not None:
            settings = replace(settings_of(encoder), max_length=recorded.max_length)
            encoder.embedding_settings = settings  # type: ignore[assignment]
    return encoder


def load_feature_extractor(name_or_path: str | os.PathLike, max_length: int | None = None, **kwargs: Any) -> Any:
    """Loads the feature extractor of an encoder, as a front end.

    Args:
        name_or_path: Folder or Hub repository.
        max_length: Longest window in frames, instead of the recorded one.
        **kwargs: Keywords of `from_pretrained`.

    Raises:
        OSError: No such folder or repository, or no feature extractor in it.
        EmbeddingConfigError: A file of settings that cannot be used, or a window without a frame.
    """
    name = os.fspath(name_or_path)
    shared = {key: kwargs[key] for key in SHARED if key in kwargs}
    config, base = load_config(name, **shared)
    recorded = EmbeddingSettings.load(name, **shared).max_length
    if base is not None and not find_file(name, FEATURE_EXTRACTOR_NAME, shared):
        name, kwargs = base.name, base.options(kwargs)  # a folder that peft alone wrote
    made = make_front_end(config, AutoFeatureExtractor.from_pretrained(name, **kwargs))
    return with_max_length(made, recorded if max_length is None else max_length)


def make_front_end(config: Any, feature_extractor: Any) -> FrontEnd:
    """The front end that computes what an encoder's own feature extractor does.

    Args:
        config: Configuration of the encoder, in which the adapter records what it needs of the front end.
        feature_extractor: Its own feature extractor, or a front end, which stays as it is.

    Raises:
        ValueError: Settings that cannot be reproduced, or that contradict the configuration.
    """
    config = getattr(config, "encoder_config", None) or config  # of a classifier
    kind = adapter_class(config)
    made = feature_extractor
    if not isinstance(made, FrontEnd):
        wanted = kind.extractor_class
        if wanted is not None and wanted not in [one.__name__ for one in type(made).__mro__]:
            raise ValueError(
                f"{type(made).__name__} is not the feature extractor of encoders of model_type {config.model_type!r}: "
                f"give a {wanted}."
            )
        made = kind.make_front_end(config, feature_extractor)
    if getattr(made, "domain", kind.domain) != kind.domain:
        raise ValueError(
            f"{type(made).__name__} makes features of the domain {made.domain!r}, and encoders of model_type "
            f"{config.model_type!r} take {kind.domain!r}: give the encoder's own feature extractor."
        )
    kind.record_front_end(config, made)
    return made


def front_end_of(encoder: Any, feature_extractor: Any) -> FrontEnd:
    """The front end of an encoder, with the longest window that its settings have.

    Args:
        encoder: The encoder.
        feature_extractor: Its own feature extractor, or a front end, which stays as it is.

    Raises:
        ValueError: As in [`make_front_end`].
    """
    made = make_front_end(getattr(base_of(encoder), "config", None), feature_extractor)
    return made if made is feature_extractor else with_max_length(made, settings_of(encoder).max_length)


def with_max_length(front_end: Any, max_length: int | None) -> Any:
    """A front end with another longest window; the same one if that is None.

    Raises:
        EmbeddingConfigError: A window without a frame.
    """
    if max_length is None or max_length == front_end.max_length:
        return front_end
    if max_length < 1:
        raise EmbeddingConfigError(f"max_length={max_length}: windows have at least one frame.")
    front_end = copy.copy(front_end)
    front_end.max_length = max_length
    return front_end


def settings_of(encoder: Any) -> EmbeddingSettings:
    """The settings of an encoder's embedding; the defaults where it has none."""
    return getattr(base_of(encoder), "embedding_settings", None) or EmbeddingSettings()


__all__ = [
    "adapter_class",
    "encoder_from_config",
    "front_end_of",
    "load_encoder",
    "load_feature_extractor",
    "make_adapter",
    "make_front_end",
    "register_encoder",
    "settings_of",
    "with_max_length",
]
