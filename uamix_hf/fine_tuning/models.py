"""Classifiers on encoders of any kind, and their frozen layers."""

import copy
import dataclasses
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..embedding.kinds import adapter_class, front_end_of, make_adapter, settings_of
from ..embedding.settings import EmbeddingSettings
from ..training.encoders import EncoderAdapter, EncoderError
from .configuration_classifier import EncoderClassifierConfig
from .modeling_classifier import EncoderForAudioClassification


def own_classifier(encoder: PreTrainedModel) -> type[PreTrainedModel] | None:
    """The classifier of the encoder's own system, if there is one that computes the encoder's embedding."""
    plain = dataclasses.replace(settings_of(encoder), max_length=None) == EmbeddingSettings()
    return adapter_class(encoder.config).classifier_class if plain else None


def has_setting(encoder: PreTrainedModel, name: str) -> bool:
    """Whether the classifier on an encoder has a field of its configuration that changes the encoder in training."""
    return own_classifier(encoder) is not None and hasattr(encoder.config, name)


def make_classifier(
    encoder: PreTrainedModel, num_labels: int, feature_extractor: Any = None, **settings: Any
) -> PreTrainedModel:
    """Classifier of a copy of the encoder and a new linear layer; frozen parameters stay frozen in the copy.

    It is of the encoder's own class where the adapter names one, as [`AudioMAEForAudioClassification`] and
    [`BeatsForAudioClassification`], and else an [`EncoderForAudioClassification`]; its encoder is `base_model`. The
    linear layer's input is the encoder's embedding: its layer and pooling, and its whitening if it has one. The layer
    is random until a [`FineTuningTrainer`] sets it, as `head_init` says, before its first step.

    Args:
        encoder: Left as it is.
        num_labels: Outputs of the linear layer.
        feature_extractor: Of the encoder, which is checked to fit. [`EncoderForAudioClassification`] needs it for the
            value of padding.
        **settings: Fields of the configuration to change, such as `id2label` or `problem_type`, and with Audio-MAE
            `drop_path_rate`; none that changes the shapes of the encoder's weights.

    Raises:
        EncoderError: An encoder that does not meet the contract of its adapter, or that has adapters such as LoRA.
        TypeError: A model that is not an encoder, a setting that the configuration does not have, or no feature
            extractor.
        ValueError: A feature extractor that does not fit the encoder.
    """
    if hasattr(encoder, "get_base_model") or getattr(encoder, "_hf_peft_config_loaded", False):
        raise EncoderError(
            f"{type(encoder).__name__} has adapters, which a classifier is saved without: merge them into the encoder "
            "first, by peft's merge_and_unload."
        )
    if isinstance(encoder, PreTrainedModel) and encoder.base_model is not encoder:
        raise TypeError(f"{type(encoder).__name__} has a head already: give its encoder, model.base_model.")
    adapter = make_adapter(encoder, settings.get("layers_path"))
    if feature_extractor is not None:
        feature_extractor = front_end_of(encoder, feature_extractor)
        adapter.check_fit(feature_extractor)
    kind = own_classifier(encoder)
    if kind is not None:
        config: Any = copy.deepcopy(encoder.config)
        change(config, num_labels=num_labels, **settings)
        model: Any = kind(config)
        model.base_model.load_state_dict(encoder.state_dict())
        for name, parameter in encoder.named_parameters():
            model.base_model.get_parameter(name).requires_grad_(parameter.requires_grad)
        model.has_new_head = True
        return model
    if feature_extractor is None:
        raise TypeError(f"A classifier on {type(encoder).__name__} pads as its feature extractor does: give it, too.")
    chosen = settings_of(encoder)
    config = EncoderClassifierConfig(
        encoder_config=copy.deepcopy(encoder.config),
        layers_path=adapter.layers_path,
        embedding_layer=chosen.layer,
        embedding_pooling=chosen.pooling,
        whitening_size=None if chosen.whitening is None else chosen.whitening[1].shape[1],
        max_length=feature_extractor.max_length,
        padding_value=feature_extractor.padding_value,
    )
    change(config, num_labels=num_labels, **settings)
    # In float32, as training needs it: masters of half precision would not move.
    model = EncoderForAudioClassification(config, copy.deepcopy(encoder).float())
    model.to(encoder.device)  # type: ignore[arg-type]
    if chosen.whitening is not None:
        for name, tensor in zip(("mean", "matrix"), chosen.whitening, strict=True):
            getattr(model.whitening, name).copy_(tensor)
    model.has_new_head = True  # type: ignore[assignment]
    return model


def encoder_of(classifier: Any) -> PreTrainedModel:
    """The encoder of a classifier, with the settings of its embedding."""
    own = isinstance(classifier, EncoderForAudioClassification)
    return classifier.embedding_encoder() if own else classifier.base_model


def change(config: Any, **settings: Any) -> None:
    """Sets fields of a configuration.

    Raises:
        TypeError: A setting that is not a field.
    """
    if unknown := [name for name in settings if not hasattr(config, name)]:
        raise TypeError(f"{type(config).__name__} has no field {', '.join(unknown)}: leave it out.")
    for name, value in settings.items():
        setattr(config, name, value)


def adapter_of(classifier: Any) -> EncoderAdapter:
    """The adapter of a classifier's encoder."""
    own = isinstance(classifier, EncoderForAudioClassification)
    return classifier.adapter if own else make_adapter(classifier.base_model)


def longest_window(classifier: Any, feature_extractor: Any) -> int:
    """Frames of the longest window that a classifier is trained on and predicts."""
    return min(feature_extractor.max_length, classifier.config.max_length or adapter_of(classifier).max_frames)


def freeze(encoder: PreTrainedModel, layers: int, layers_path: str | None = None) -> list[nn.Module]:
    """Freezes lower layers and all that comes before them, and returns the frozen modules.

    What cannot be trained is frozen too: position tables that the encoder's class keeps fixed, and what comes after
    the embedding's layer.

    Args:
        encoder: Changed in place.
        layers: Number of layers to freeze.
        layers_path: Path of the encoder's list of layers; searched if None.

    Raises:
        ValueError: the encoder has fewer layers.
    """
    adapter = make_adapter(encoder, layers_path)
    parts = adapter.lower_parts(layers)
    trainable = adapter.trainable_names()
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in trainable)
    for part in parts:
        part.requires_grad_(False)
    return [part for part in parts if isinstance(part, nn.Module)]


__all__ = ["adapter_of", "encoder_of", "freeze", "has_setting", "longest_window", "make_classifier"]
