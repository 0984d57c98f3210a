"""Adapters of Whisper's encoder and of those with its architecture."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.front_ends import front_end
from .checks import check_length, check_statistics
from .encoders import EncoderAdapter, EncoderError
from .loading import load_config, load_part

# After normalisation, which divides log10 of the power by 4: silence, and the range of 80 dB below a clip's maximum.
SILENCE = -1.5
RANGE = 2.0
# What the encoder's weights have before their names in a whole model.
WHOLE = r"^(model\.)?(encoder|audio_tower)\."


class WhisperAdapter(EncoderAdapter):
    """Adapter of `WhisperEncoder`, whose input is `input_features` (batch, mel bins, frames), 2 frames a token.

    The encoder's own forward takes 30 s of audio only. Here an input of any length up to that has the first positions,
    and attention leaves padding out: an embedding does not depend on its batch. It differs from that of the same clip
    padded to 30 s, where attention also sees the silence. The clip's maximum less 80 dB, below which Whisper cuts its
    log-mels off, is that of each view or mixture.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    input_name = "input_features"
    extractor_class = "WhisperFeatureExtractor"
    poolings = ("mean", "mean_std")

    def read_sizes(self, config: Any) -> None:
        for name in ("conv1", "conv2", "embed_positions", "layer_norm"):
            if not hasattr(self.base, name):
                raise EncoderError(f"{type(self.base).__name__} has no {name}: give Whisper's encoder, model.encoder.")
        self.variable_length = True
        self.max_frames = 2 * config.max_source_positions
        self.pooled_size = config.d_model
        self.patch = 2
        self.patch_shape = self.strides = (2, config.num_mel_bins)

    @classmethod
    def encoder_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """Class of the encoder of a configuration."""
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder

    @classmethod
    def load(cls, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """Loads the encoder of a folder that holds it alone or in a whole model, as float32 unless `dtype` is given.

        Args:
            name_or_path: Folder or Hub repository.
            **kwargs: Keywords of `from_pretrained`.

        Raises:
            EncoderError: The folder lacks weights of the encoder.
        """
        kwargs = {"dtype": torch.float32, **kwargs}
        config = load_config(name_or_path, **kwargs)
        part = getattr(config, "audio_config", config)
        kind = cls.encoder_class(part)
        if config.architectures == [kind.__name__]:
            return kind.from_pretrained(name_or_path, **kwargs)
        return load_part(kind, name_or_path, part, WHOLE, **kwargs)

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> PreTrainedModel:
        return cls.encoder_class(config)._from_config(config)

    @classmethod
    def make_front_end(cls, config: Any, feature_extractor: Any) -> AudioMAEFeatureExtractor:
        made = feature_extractor
        if made.dither != 0:
            raise ValueError(
                f"dither={made.dither}: log-mels are cached, so that noise cannot be drawn anew. Set it to 0."
            )
        return front_end(
            "whisper", sampling_rate=made.sampling_rate, num_mel_bins=made.feature_size, n_fft=made.n_fft,
            frame_length=made.n_fft, frame_shift=made.hop_length, max_length=made.nb_max_frames,
            clip_samples=made.n_samples,
        )  # fmt: skip

    @classmethod
    def own_extractor(cls, config: Any, front_end: Any) -> WhisperFeatureExtractor:
        made = front_end
        return WhisperFeatureExtractor(
            feature_size=made.num_mel_bins, sampling_rate=made.sampling_rate, hop_length=made.frame_shift,
            chunk_length=(made.clip_samples or 0) // made.sampling_rate or 30, n_fft=made.n_fft or made.frame_length,
        )  # fmt: skip

    def check_fit(self, extractor: Any) -> None:
        check_statistics(extractor, "whisper", num_mel_bins=self.base.config.num_mel_bins)
        check_length(extractor, self.max_frames)

    def input_features(self, input_values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The encoder's input (batch, mel bins, frames): each clip cut off at 80 dB below its maximum, then silence.

        Args:
            input_values: Normalised (batch, frames, mel bins).
            lengths: Frames of audio (batch,).
        """
        valid = torch.arange(input_values.shape[1], device=input_values.device) < lengths[:, None]
        values = input_values.float().masked_fill(~valid[..., None], SILENCE)
        return torch.maximum(values, values.amax(dim=(1, 2), keepdim=True) - RANGE).mT

    def run(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[Any, torch.Tensor | None]:
        base: Any = self.base
        # The last token sees the silence after a clip, two frames of it, whether or not a longer clip is in the batch.
        frames = torch.sym_min(input_values.shape[1] + 2, self.max_frames)
        padded = F.pad(input_values, (0, 0, 0, frames - input_values.shape[1]), value=SILENCE)
        features = self.input_features(padded, lengths).to(base.dtype)
        tokens = -(-input_values.shape[1] // 2)
        hidden = F.gelu(base.conv2(F.gelu(base.conv1(features)))).mT[:, :tokens]
        hidden = hidden + base.embed_positions.weight[:tokens]
        hidden = F.dropout(hidden, p=base.dropout, training=base.training)
        visible = self.visible(tokens, lengths)
        mask = create_bidirectional_mask(base.config, hidden, visible.long())
        for layer in self.layers:  # all of them: layerdrop is off while tuning
            hidden = layer(hidden, mask)
        if self.settings.layer is None:
            hidden = self.finished(hidden, visible)
        return BaseModelOutput(last_hidden_state=hidden), visible[..., None].float()

    def token_positions(self, count: int) -> np.ndarray:
        # Both convolutions have three frames, of which the middle one of the second is every other frame.
        return 2.0 * np.arange(count)

    def finished(self, hidden: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The encoder's output, from that of its last layer (batch, tokens, hidden).

        Args:
            hidden: Output of the last layer.
            visible: Whether each token has a frame of audio (batch, tokens).
        """
        return self.base.get_submodule("layer_norm")(hidden)

    def visible(self, tokens: int, lengths: torch.Tensor) -> torch.Tensor:
        """Whether each token has a frame of audio (batch, tokens)."""
        return 2 * torch.arange(tokens, device=lengths.device) < lengths[:, None]


class AudioTowerAdapter(WhisperAdapter):
    """Adapter of encoders with Whisper's architecture in models of audio and language: Voxtral.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    @classmethod
    def encoder_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        return MODEL_MAPPING[type(config)]  # type: ignore[return-value]  # one class for each of these


class AveragingAudioTowerAdapter(AudioTowerAdapter):
    """Adapter of encoders that average pairs of tokens after the last layer: Qwen2-Audio, Audio Flamingo 3.

    Of the last pair of a clip, only tokens with audio count. A lower layer has the tokens before averaging.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    def finished(self, hidden: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        weights = in_pairs(visible[..., None].to(hidden.dtype))
        averaged = (in_pairs(hidden) * weights).sum(dim=2) / weights.sum(dim=2).clamp_min(1)
        return super().finished(averaged, visible)

    def mean_over_tokens(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return super().mean_over_tokens(hidden, valid if self.cut else in_pairs(valid).amax(dim=2))

    def token_grid(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return super().token_grid(hidden, valid if self.cut else in_pairs(valid).amax(dim=2))

    def time_tokens(self, lengths: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return super().time_tokens(lengths, valid if self.cut else in_pairs(valid).amax(dim=2))

    def token_positions(self, count: int) -> np.ndarray:
        return super().token_positions(count) if self.cut else 4.0 * np.arange(count) + 1


def in_pairs(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (batch, tokens, size) as pairs (batch, pairs, 2, size); an odd last one with 0."""
    return F.pad(tokens, (0, 0, 0, tokens.shape[1] % 2)).unflatten(1, (-1, 2))


__all__ = ["AudioTowerAdapter", "AveragingAudioTowerAdapter", "WhisperAdapter"]
