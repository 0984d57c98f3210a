"""Classifiers on encoders, and their frozen layers."""

import copy
from typing import Any

from torch import nn

from ..models.audio_mae.modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEModel
from ..training.encoders import EncoderAdapter


def make_classifier(encoder: AudioMAEModel, num_labels: int, **settings: Any) -> AudioMAEForAudioClassification:
    """Classifier of a copy of the encoder and a new linear layer; frozen parameters stay frozen in the copy.

    Args:
        encoder: Left as it is.
        num_labels: Outputs of the linear layer.
        **settings: Fields of the configuration to change, such as `drop_path_rate` or `id2label`; none that changes the
            shapes of the encoder's weights.

    Raises:
        TypeError: an encoder of another kind.
    """
    if not isinstance(encoder, AudioMAEModel):
        raise TypeError(f"The classifier is built on an AudioMAEModel, not on {type(encoder).__name__}.")
    config = copy.deepcopy(encoder.config)
    config.num_labels = num_labels
    for name, value in settings.items():
        setattr(config, name, value)
    model = AudioMAEForAudioClassification(config)
    model.audio_mae.load_state_dict(encoder.state_dict())
    for name, parameter in encoder.named_parameters():
        model.audio_mae.get_parameter(name).requires_grad_(parameter.requires_grad)
    return model


def freeze(encoder: AudioMAEModel, layers: int) -> list[nn.Module]:
    """Freeze lower layers and all that comes before them, and return the frozen modules.

    Args:
        encoder: Changed in place.
        layers: Number of layers to freeze.

    Raises:
        ValueError: the encoder has fewer layers.
    """
    parts = EncoderAdapter(encoder).lower_parts(layers)
    for part in parts:
        part.requires_grad_(False)
    return [part for part in parts if isinstance(part, nn.Module)]


__all__ = ["freeze", "make_classifier"]
