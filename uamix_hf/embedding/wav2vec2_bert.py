"""Adapter of Wav2Vec2-BERT."""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, SeamlessM4TFeatureExtractor

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.front_ends import front_end
from .checks import check_statistics
from .encoders import EncoderAdapter, EncoderError
from .overrides import overridden

STACKED = 2  # frames in a token
FRAMES = 3000  # of 30 s, the longest window by default


class Wav2Vec2BertAdapter(EncoderAdapter):
    """Adapter of `Wav2Vec2BertModel`, whose input is `input_features` (batch, tokens, 160): two frames of 80 mel bins.

    Each view or mixture is normalised per mel bin to zero mean and unit variance over its frames, so that gain has no
    effect. An odd last frame counts in the normalisation and has no token, as with `SeamlessM4TFeatureExtractor`; a
    clip of one frame has one token. The model's own masking of its input and of whole layers is off while tuning.
    Recordings are embedded in windows of 30 s, or of the feature extractor's `max_length`.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    input_name = "input_features"
    extractor_class = "SeamlessM4TFeatureExtractor"
    poolings = ("mean", "mean_std")

    def read_sizes(self, config: Any) -> None:
        if config.add_adapter:
            raise EncoderError(
                f"{type(self.base).__name__} has add_adapter=True: load it with add_adapter=False, since the embedding "
                "is of the encoder's output."
            )
        self.variable_length = True
        self.max_frames = FRAMES  # until `check_fit` knows the front end's
        self.pooled_size = config.hidden_size
        self.patch = STACKED
        self.patch_shape = self.strides = (STACKED, config.feature_projection_input_dim // STACKED)

    @classmethod
    def load(cls, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """Loads the encoder of a folder, also of one with a head, as float32 unless `dtype` is given.

        Args:
            name_or_path: Folder or Hub repository.
            **kwargs: Keywords of `from_pretrained`.
        """
        return super().load(name_or_path, **{"dtype": torch.float32, **kwargs})

    @classmethod
    def make_front_end(cls, config: Any, feature_extractor: Any) -> AudioMAEFeatureExtractor:
        made = feature_extractor
        if made.stride != STACKED:
            raise ValueError(f"stride={made.stride}: a token of Wav2Vec2-BERT has {STACKED} frames.")
        return front_end("wav2vec2_bert", sampling_rate=made.sampling_rate, num_mel_bins=made.num_mel_bins)

    @classmethod
    def own_extractor(cls, config: Any, front_end: Any) -> SeamlessM4TFeatureExtractor:
        bins = front_end.num_mel_bins
        return SeamlessM4TFeatureExtractor(
            feature_size=bins, num_mel_bins=bins, sampling_rate=front_end.sampling_rate, stride=STACKED
        )

    def check_fit(self, extractor: Any) -> None:
        check_statistics(extractor, "wav2vec2_bert", num_mel_bins=self.patch_shape[1])
        self.max_frames = extractor.max_length  # the encoder takes any length

    def trainable_names(self) -> set[str]:
        return super().trainable_names() - {"masked_spec_embed"}  # of the masking that is off

    def input_features(self, input_values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The encoder's input (batch, tokens, 2 x mel bins).

        Args:
            input_values: Raw (batch, frames, mel bins).
            lengths: Frames of audio (batch,).
        """
        values = F.pad(input_values.float(), (0, 0, 0, max(0, STACKED - input_values.shape[1])))
        valid = (torch.arange(values.shape[1], device=values.device) < lengths[:, None])[..., None]
        count = lengths[:, None, None]
        centred = (values - (values * valid).sum(dim=1, keepdim=True) / count) * valid
        variance = centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp_min(1)
        normalised = centred / (variance + 1e-7).sqrt()
        tokens = values.shape[1] // STACKED
        return normalised[:, : STACKED * tokens].unflatten(1, (tokens, STACKED)).flatten(2)

    def visible(self, tokens: int, lengths: torch.Tensor) -> torch.Tensor:
        """Whether each token is of two frames of audio (batch, tokens); the first one always is."""
        return torch.arange(tokens, device=lengths.device) < (lengths // STACKED).clamp_min(1)[:, None]

    def run(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[Any, torch.Tensor | None]:
        features = self.input_features(input_values, lengths).to(self.base.dtype)
        visible = self.visible(features.shape[1], lengths)
        with overridden(self.base.config, apply_spec_augment=False, layerdrop=0.0):
            output = self.layer_output(input_features=features, attention_mask=visible.long())
        return output, visible[..., None].float()


__all__ = ["Wav2Vec2BertAdapter"]
