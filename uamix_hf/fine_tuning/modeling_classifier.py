"""A linear classifier on the embedding of any encoder that has an adapter."""

import dataclasses
import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from ..embedding.encoders import EncoderAdapter
from ..embedding.kinds import encoder_from_config, make_adapter, register_encoder
from ..embedding.settings import EmbeddingSettings
from ..models.audio_mae.patches_audio_mae import InputTooLongError
from ..models.audio_mae.pooling_audio_mae import AudioMAEWhitening
from .configuration_classifier import EncoderClassifierConfig


class EncoderForAudioClassification(PreTrainedModel):
    """Encoder with a linear layer on its embedding: single-label, multi-label or regression.

    The encoder is of any kind that has an adapter ([`EncoderAdapter`]), which runs it, so that the input is the same
    for all: normalised features of the encoder's front end. Layer, pooling and whitening of the embedding are those of
    the configuration.

    Args:
        config: Settings of the classifier and of the encoder.
        encoder: The encoder, which becomes a part of the model; a new one from `config.encoder_config` by default.

    Raises:
        EncoderError: An encoder that does not meet the contract of its adapter.
        EmbeddingConfigError: A layer or pooling that the encoder does not have.
    """

    config: EncoderClassifierConfig
    config_class = EncoderClassifierConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    # The losses are means over the batch, so the Trainer must divide them by its accumulation steps.
    accepts_loss_kwargs = False
    _supports_sdpa = True

    def __init__(self, config: EncoderClassifierConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        self.num_labels: int = config.num_labels  # type: ignore[assignment]
        if encoder is None:
            encoder = encoder_from_config(config.encoder_config)  # type: ignore[arg-type]
        else:
            for module in encoder.modules():
                module._is_hf_initialized = True  # type: ignore[assignment]  # post_init would initialise it again
        self.encoder: Any = encoder
        encoder.embedding_settings = EmbeddingSettings(  # type: ignore[assignment]
            config.embedding_layer, config.embedding_pooling
        )
        self.adapter = make_adapter(self.encoder, config.layers_path)
        self.supports_gradient_checkpointing = encoder.supports_gradient_checkpointing
        width = self.adapter.embedding_size
        size = config.whitening_size
        self.whitening = AudioMAEWhitening(width, size) if size else nn.Identity()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(size or width, self.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AudioMAEWhitening):
            module.reset_fixed_buffers()

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves the model as in transformers, but always under the current names of the weights.

        transformers would save some encoders (AST) under their original names, which its Trainer ignores silently when
        it resumes.

        Args:
            save_directory: Folder.
            *args: As in transformers.
            **kwargs: As in transformers.
        """
        super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classifies clips.

        Args:
            input_values (`(batch, frames, bins)`): Normalised features of the encoder's front end, float.
            attention_mask (`(batch, frames)`, *optional*): 1 = audio, 0 = padding, which comes last.
            labels (*optional*): `(batch,)` class numbers (cross-entropy), `(batch, num_labels)` float 0/1 (binary
                cross-entropy), or float targets where `num_labels` is 1 (squared error); see `problem_type`.
            mask_ratio (`float`, *optional*): Fraction of each clip's tokens to drop, where the encoder can.
            **kwargs: Arguments that are switched off, which exporters and adapters pass to every model.

        Raises:
            InputTooLongError: More frames than the encoder takes.
            ValueError: A mask of another shape, or all 0 for a clip, or `mask_ratio` where no token can be dropped.
            TypeError: An unknown argument.
        """
        if unknown := [name for name, value in kwargs.items() if value is not None and value is not False]:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}.")
        if mask_ratio and not self.adapter.drops_tokens:
            raise ValueError(f"mask_ratio={mask_ratio}: {type(self.adapter.base).__name__} cannot drop tokens.")
        lengths = self.lengths(input_values, attention_mask)
        pooled, _ = self.adapter.encode(input_values, lengths, mask_ratio or 0.0, self.config.padding_value)
        embedding = self.dropout(self.whitening(pooled))
        logits = self.classifier(embedding.to(self.classifier.weight.dtype))
        loss = None if labels is None else self.loss_function(labels, logits.float(), self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def lengths(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Frames of audio of each clip (batch,) int64."""
        batch, frames = input_values.shape[:2]
        longest = self.config.max_length or self.adapter.max_frames
        if frames > longest + self.adapter.patch:  # of which the last patch may be padded
            raise InputTooLongError(
                f"input_values has {frames} frames; this classifier on {type(self.adapter.base).__name__} takes up to "
                f"{longest}. Give windows of that length, or set truncation=True in the feature extractor."
            )
        if attention_mask is None:
            return torch.full((batch,), frames, device=input_values.device)
        if attention_mask.shape != (batch, frames):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, expected {(batch, frames)}: one value per "
                "frame (1 = audio, 0 = padding)."
            )
        lengths = attention_mask.long().sum(dim=1)
        prefix = torch.arange(frames, device=lengths.device) < lengths[:, None]
        wrong = (lengths == 0) | (prefix != attention_mask.bool()).any(dim=1)
        if wrong.any():
            raise ValueError(
                f"attention_mask is not ones and then zeros in rows {wrong.nonzero().flatten().tolist()}: a clip has "
                "at least one frame, and padding comes last."
            )
        return lengths

    def embedding_encoder(self) -> PreTrainedModel:
        """The encoder, with layer, pooling and whitening of the embedding that is classified."""
        if isinstance(self.whitening, AudioMAEWhitening):
            tensors = self.whitening.mean.detach().clone(), self.whitening.matrix.detach().clone()
            settings = dataclasses.replace(self.adapter.settings, whitening=tensors)
            self.encoder.embedding_settings = settings
        return self.encoder


class ClassifierFolder(EncoderAdapter):
    """How the encoder in a classifier's folder is loaded; once loaded, it has the adapter of its own kind."""

    @classmethod
    def load(cls, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        classifier = EncoderForAudioClassification.from_pretrained(name_or_path, **kwargs)
        encoder = classifier.embedding_encoder()
        encoder.name_or_path = encoder.config.name_or_path = str(name_or_path)
        return encoder


register_encoder(EncoderClassifierConfig.model_type, ClassifierFolder)

__all__ = ["EncoderForAudioClassification"]
