"""Adapters of Audio-MAE and its siblings, whose configurations choose layer and pooling."""

import copy
import warnings
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..models.audio_mae.modeling_audio_mae import AudioMAEForAudioClassification
from ..models.audio_mae.pooling_audio_mae import AudioMAEAttentionPooling, AudioMAEWhitening
from ..models.beats.modeling_beats import BeatsForAudioClassification
from .encoders import EncoderAdapter
from .settings import EmbeddingConfigError, EmbeddingSettings

ONE_TOKEN = (
    "pooling='std_time': the standard deviations of a clip or view with one token in time are 0, so that its embedding "
    "says nothing. Leave such clips out, or take mean_std_time."
)


class SiblingAdapter(EncoderAdapter):
    """Adapter of encoders whose pooled output is the embedding: MAE-AST.

    Another layer than the last one is chosen by leaving out the layers after it, and another pooling by its field.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    own_fields = True

    @classmethod
    def chosen_fields(cls, config: Any, layer: int | None, pooling: str | None) -> dict[str, Any]:
        layers = config.num_hidden_layers
        if layer is not None and not 1 <= layer <= layers:
            raise EmbeddingConfigError(f"layer={layer}: the encoder has the layers 1 to {layers}.")
        if pooling is not None:
            try:
                copy.copy(config).pooling = pooling
            except StrictDataclassError as error:
                raise EmbeddingConfigError(f"pooling={pooling!r}: {error.__cause__}.") from error
        fields = {"num_hidden_layers": layer, "pooling": pooling}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def read_settings(cls, encoder: Any) -> EmbeddingSettings:
        config = encoder.config
        return replace(super().read_settings(encoder), layer=config.num_hidden_layers, pooling=config.pooling)


class AudioMAEAdapter(SiblingAdapter):
    """Adapter of Audio-MAE, whose whitening is a layer of its own.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    own_whitening = True
    classifier_class = AudioMAEForAudioClassification

    def learnt_pooling(self) -> list[str]:
        learnt = isinstance(getattr(self.base, "attention_pooling", None), AudioMAEAttentionPooling)
        return ["attention_pooling"] if learnt else []

    def encode(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        pooled, visible = super().encode(input_values, lengths, token_drop, padding_value)
        deviations_alone = self.base.config.pooling == "std_time"
        if deviations_alone and visible is not None and (visible.sum(dim=1).amax(dim=1) < 2).any():
            warnings.warn(ONE_TOKEN, stacklevel=2)
        return pooled, visible

    @classmethod
    def chosen_fields(cls, config: Any, layer: int | None, pooling: str | None) -> dict[str, Any]:
        chosen = super().chosen_fields(config, layer, pooling)
        return chosen | {"whitening_size": 0} if chosen else {}

    @classmethod
    def read_settings(cls, encoder: Any) -> EmbeddingSettings:
        layer = encoder.whitening
        whitening = (layer.mean, layer.matrix) if encoder.config.whitening_size else None
        return replace(super().read_settings(encoder), whitening=whitening)

    @classmethod
    def set_whitening(cls, encoder: Any, whitening: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        layer: torch.nn.Module = torch.nn.Identity()
        if whitening is not None:
            layer = AudioMAEWhitening(*whitening[1].shape).to(encoder.device)
            for name, tensor in zip(("mean", "matrix"), whitening, strict=True):
                layer.get_buffer(name).copy_(tensor)
        encoder.whitening, encoder.config.whitening_size = layer, 0 if whitening is None else whitening[1].shape[1]


class BeatsAdapter(SiblingAdapter):
    """Adapter of BEATs, whose residual connections are scaled by the number of layers, so that none can be left out.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    classifier_class = BeatsForAudioClassification

    @classmethod
    def chosen_fields(cls, config: Any, layer: int | None, pooling: str | None) -> dict[str, Any]:
        if layer not in (None, config.num_hidden_layers):
            raise EmbeddingConfigError(f"layer={layer}: the embedding of BEATs is of its last layer.")
        return super().chosen_fields(config, layer, pooling)


class SSAMBAAdapter(SiblingAdapter):
    """Adapter of SSAMBA, whose tokens are all times of one frequency after the other.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    time_first = False


__all__ = ["AudioMAEAdapter", "BeatsAdapter", "SSAMBAAdapter", "SiblingAdapter"]
