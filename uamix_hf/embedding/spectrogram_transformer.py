"""Adapter of transformers' Audio Spectrogram Transformer."""

from typing import Any

from transformers import ASTFeatureExtractor

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .encoders import EncoderAdapter


class ASTAdapter(EncoderAdapter):
    """Adapter of `ASTModel`, whose input is always padded to `config.max_length`.

    `"pooler"` is the mean of its two prefix tokens, `"mean"` that of the patches with audio.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    time_first = False
    extractor_class = "ASTFeatureExtractor"

    def read_sizes(self, config: Any) -> None:
        super().read_sizes(config)
        self.strides = (config.time_stride, config.frequency_stride)

    @classmethod
    def make_front_end(cls, config: Any, feature_extractor: Any) -> AudioMAEFeatureExtractor:
        made = feature_extractor
        # Without normalisation: as with a mean of 0 and a divisor of 1.
        mean, std, factor = (made.mean, made.std, 2.0) if made.do_normalize else (0.0, 1.0, 1.0)
        return AudioMAEFeatureExtractor(
            sampling_rate=made.sampling_rate, num_mel_bins=made.num_mel_bins, max_length=made.max_length,
            frame_length=made.sampling_rate // 40, frame_shift=made.sampling_rate // 100, remove_waveform_mean=False,
            mean=mean, std=std, std_factor=factor,
        )  # fmt: skip

    @classmethod
    def own_extractor(cls, config: Any, front_end: Any) -> ASTFeatureExtractor:
        made = front_end
        scale = made.std_factor * made.std
        return ASTFeatureExtractor(
            sampling_rate=made.sampling_rate, num_mel_bins=made.num_mel_bins, max_length=config.max_length,
            do_normalize=(made.mean, scale) != (0.0, 1.0), mean=made.mean, std=scale / 2,
        )  # fmt: skip


__all__ = ["ASTAdapter"]
