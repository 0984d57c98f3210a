"""Adapters of Audio-MAE and its siblings, whose configurations choose layer and pooling."""

from typing import Any

from .encoders import EncoderAdapter
from .settings import EmbeddingConfigError


class SiblingAdapter(EncoderAdapter):
    """Adapter of encoders whose pooled output is the embedding: MAE-AST, SSAMBA.

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
        fields = {"num_hidden_layers": layer, "pooling": pooling}
        return {name: value for name, value in fields.items() if value is not None}


class AudioMAEAdapter(SiblingAdapter):
    """Adapter of Audio-MAE, whose whitening is a layer of its own.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    own_whitening = True

    @classmethod
    def chosen_fields(cls, config: Any, layer: int | None, pooling: str | None) -> dict[str, Any]:
        chosen = super().chosen_fields(config, layer, pooling)
        return chosen | {"whitening_size": 0} if chosen else {}


class BeatsAdapter(SiblingAdapter):
    """Adapter of BEATs, whose residual connections are scaled by the number of layers, so that none can be left out.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    @classmethod
    def chosen_fields(cls, config: Any, layer: int | None, pooling: str | None) -> dict[str, Any]:
        if layer not in (None, config.num_hidden_layers):
            raise EmbeddingConfigError(f"layer={layer}: the embedding of BEATs is of its last layer.")
        return super().chosen_fields(config, layer, pooling)


__all__ = ["AudioMAEAdapter", "BeatsAdapter", "SiblingAdapter"]
