"""Configuration of a classifier on any encoder that has an adapter."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


@strict
class EncoderClassifierConfig(PreTrainedConfig):
    """Configuration of [`EncoderForAudioClassification`].

    `num_labels`, `id2label` and `problem_type` are those of transformers.

    Args:
        encoder_config: Configuration of the encoder.
        layers_path: Path of the encoder's list of layers, such as `"encoder.layers"`; searched if None.
        embedding_layer: Layer of the encoder whose pooled output is classified, from 1 on; None for its last output.
        embedding_pooling: How the encoder's tokens are pooled; None for the encoder's own way.
        whitening_size: Dimensions of the embedding's whitening; None without one.
        max_length: Frames of the longest window, which is the feature extractor's; None for the most that the encoder
            takes.
        padding_value: Value of padding after normalisation, which is the feature extractor's.
        classifier_dropout: Dropout of the embedding before the linear layer.
        initializer_range: Standard deviation of the linear layer's initial weights.
    """

    model_type = "audio_encoder_classifier"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: dict | PreTrainedConfig | None = None
    layers_path: str | None = None
    embedding_layer: int | None = None
    embedding_pooling: str | None = None
    whitening_size: int | None = None
    max_length: int | None = None
    padding_value: float | int = 0.0
    classifier_dropout: float | int = 0.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):
            values = dict(self.encoder_config)
            self.encoder_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)

    def validate_ranges(self) -> None:
        """Refuses values out of range; called by `huggingface_hub`'s `strict`.

        Raises:
            ValueError: A value out of range.
        """
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout={self.classifier_dropout} is outside [0, 1).")
        if self.whitening_size is not None and self.whitening_size < 1:
            raise ValueError(f"whitening_size={self.whitening_size}: at least 1, or None for no whitening.")


__all__ = ["EncoderClassifierConfig"]
