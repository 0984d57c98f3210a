"""Log-mel spectrograms to the encoder's input: patches projected to tokens, with positions and prefix tokens."""

import torch
from torch import nn

from .configuration_audio_mae import AudioMAEConfig
from .layers_audio_mae import AudioMAEFixedBuffers, sincos_position_table


class InputTooLongError(ValueError):
    """The input has more frames than the position table."""


class AudioMAEPatchEmbeddings(nn.Module):
    """Projects patches of a log-mel (batch, frames, mel bins) to tokens (batch, tokens, hidden_size), time-major."""

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.config = config
        self.projection = nn.Conv2d(1, config.hidden_size, config.patch_shape, config.strides)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        config = self.config
        if input_values.ndim != 3 or input_values.shape[2] != config.num_mel_bins:
            raise ValueError(
                f"input_values has shape {tuple(input_values.shape)}, expected (batch, frames, {config.num_mel_bins}): "
                "the log-mel spectrograms of AudioMAEFeatureExtractor."
            )
        frames = input_values.shape[1]
        if frames > config.max_length:
            raise InputTooLongError(
                f"input_values has {frames} frames of 10 ms and the model's positions end at {config.max_length}. "
                "Embed long recordings with uamix_hf.AudioEmbedder, which averages windows, or cut them with the "
                "feature extractor's truncation=True."
            )
        if frames < config.patch_size or (frames - config.patch_size) % config.strides[0]:
            rule = "a positive multiple of" if config.strides[0] == config.patch_size else "covered by patches of"
            raise ValueError(
                f"input_values has {frames} frames, not {rule} patch_size={config.patch_size}: pad "
                "with AudioMAEFeatureExtractor, which also makes the attention_mask."
            )
        return self.projection(input_values[:, None]).flatten(2).transpose(1, 2)


class AudioMAEEmbeddings(AudioMAEFixedBuffers):
    position_embeddings: torch.Tensor

    def __init__(self, config: AudioMAEConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = AudioMAEPatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, config.num_prefix_tokens, config.hidden_size))
        # Fixed, yet saved: released checkpoints contain their table, which must replace the computed one. It is no
        # frozen parameter, because from_pretrained makes every parameter trainable.
        self.register_fixed_buffers()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def fixed_buffers(self) -> dict[str, torch.Tensor]:
        return {"position_embeddings": sincos_position_table(self.config, self.config.hidden_size)}

    def forward(self, input_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns prefix tokens (batch, prefix, hidden_size) and patch tokens (batch, tokens, hidden_size).

        Positions are added. A shorter input uses the beginning of the table, which in time-major order gives every
        token the position it had in pretraining.
        """
        patches = self.patch_embeddings(input_values.to(self.cls_token.dtype))
        prefix = self.config.num_prefix_tokens
        patches = patches + self.position_embeddings[:, prefix : prefix + patches.shape[1]]
        cls = (self.cls_token + self.position_embeddings[:, :prefix]).expand(patches.shape[0], -1, -1)
        return self.dropout(cls), self.dropout(patches)
