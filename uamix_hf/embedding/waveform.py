"""Adapter of encoders of waveforms: wav2vec 2.0, HuBERT, WavLM and their relatives."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.modeling_outputs import BaseModelOutput

from ..models.waveform_frames import WaveformFrames
from .convolutions import Convolutions, keeps_clips_apart
from .encoders import EncoderAdapter, EncoderError
from .overrides import overridden

FRAMES = 3000  # of the longest window by default: 30 s at 16 kHz
VARIANCE_FLOOR = 1e-7  # of Wav2Vec2FeatureExtractor
# Of the encoder's own training: masked tokens, and layers that are skipped at random.
MASKS = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}


class WaveformAdapter(EncoderAdapter):
    """Adapter of encoders whose `input_values` are waveforms (batch, samples): convolutions, then layers.

    Their configurations have `conv_kernel` and `conv_stride`: wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech,
    SEW, wav2vec2-conformer, and remote code of that build, such as MERT. Features are frames of samples
    ([`WaveformFrames`]). They are joined, and where the encoder's own feature extractor does so, each view or mixture
    is normalised to zero mean and unit variance; `config.do_normalize` records that, and is saved with the encoder.
    Tokens are counted as in transformers, so that none sees beyond the end of its clip. A clip that is shorter than a
    token is padded with zeros to one.

    An embedding does not depend on its batch. Where padding would reach the tokens of audio (group norm over time,
    several positional convolutions, convolutions in the layers, pooling of tokens), only clips of equal length pass the
    encoder together; others get an attention mask.

    SpecAugment and layer drop, by which these classes mask tokens and skip layers in training, are off in every pass:
    views and mixtures are what varies, and a skipped layer has no output. The saved configuration keeps them.

    Args:
        encoder: The encoder.
        layers_path: As in [`EncoderAdapter`].
    """

    domain = "waveform"
    poolings = ("mean", "mean_std")

    def read_sizes(self, config: Any) -> None:
        self.convolutions = Convolutions.of(config)
        self.variable_length = True
        self.max_frames = FRAMES  # until `check_fit` knows the front end's
        adapted = self.settings.layer is None and getattr(config, "add_adapter", False)
        self.pooled_size = config.output_hidden_size if adapted else config.hidden_size
        self.patch, stride = self.convolutions.frames
        samples = self.convolutions.frame_samples
        self.patch_shape, self.strides = (self.patch, samples), (stride, samples)
        self.masks_padding = keeps_clips_apart(self.base, self.layers_path)

    @classmethod
    def load(cls, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """Loads the encoder of a folder, also of one with a head, as float32 unless `dtype` is given.

        Args:
            name_or_path: Folder or Hub repository.
            **kwargs: Keywords of `from_pretrained`.
        """
        return AutoModel.from_pretrained(name_or_path, **{"dtype": torch.float32, **kwargs})

    @classmethod
    def make_front_end(cls, config: Any, feature_extractor: Any) -> WaveformFrames:
        made = feature_extractor
        if not isinstance(made, Wav2Vec2FeatureExtractor):
            raise ValueError(f"{type(made).__name__} makes no waveforms: give the encoder's Wav2Vec2FeatureExtractor.")
        convolutions = Convolutions.of(config)
        size, stride = convolutions.frames
        return WaveformFrames(
            sampling_rate=made.sampling_rate, frame_shift=convolutions.frame_samples, patch_size=size,
            time_stride=stride, max_length=FRAMES, do_normalize=made.do_normalize,
        )  # fmt: skip

    @classmethod
    def own_extractor(cls, config: Any, front_end: WaveformFrames) -> Wav2Vec2FeatureExtractor:
        masked = getattr(config, "feat_extract_norm", None) == "layer"  # as the published models say
        return Wav2Vec2FeatureExtractor(
            sampling_rate=front_end.sampling_rate, do_normalize=front_end.do_normalize, return_attention_mask=masked
        )

    @classmethod
    def record_front_end(cls, config: Any, front_end: Any) -> None:
        said = getattr(config, "do_normalize", None)
        if said not in (None, front_end.do_normalize):
            raise ValueError(
                f"The encoder's configuration says do_normalize={said}, and its feature extractor "
                f"{front_end.do_normalize}: give the one that was saved with it, or change encoder.config.do_normalize."
            )
        config.do_normalize = front_end.do_normalize

    def check_fit(self, extractor: Any) -> None:
        (size, samples), (stride, _) = self.patch_shape, self.strides
        for name, taken in (("frame_shift", samples), ("patch_size", size), ("time_stride", stride)):
            if getattr(extractor, name, None) != taken:
                raise ValueError(
                    f"{type(extractor).__name__} has {name}={getattr(extractor, name, None)} and the encoder {taken}: "
                    "give the feature extractor that was saved with the model."
                )
        self.max_frames = extractor.max_length  # the encoder takes any length

    def stem(self) -> Iterator[nn.Module | nn.Parameter]:
        config: Any = self.base.config
        norm = None
        if getattr(config, "do_stable_layer_norm", False) or hasattr(config, "position_embeddings_type"):
            # Declared before the layers, and applied after them.
            norm = self.base.get_submodule(self.layers_path.rpartition(".")[0]).layer_norm
        yield from (part for part in super().stem() if part is not norm)

    def trainable_names(self) -> set[str]:
        unused = {id(getattr(self.base, "masked_spec_embed", None))}
        if hasattr(self.base.config, "position_embeddings_type"):  # wav2vec2-conformer declares what it does not use
            unused |= {id(value) for value in self.base.get_submodule("encoder.pos_conv_embed").parameters()}
        return {name for name in super().trainable_names() if id(self.encoder.get_parameter(name)) not in unused}

    def waveforms(self, input_values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Waveforms (batch, samples) float32, normalised if the encoder takes them so, 0 after the end of a clip.

        Args:
            input_values: Frames of samples (batch, frames, samples).
            lengths: Frames of audio (batch,).

        Raises:
            EncoderError: It is not known whether the encoder takes normalised clips.
        """
        normalised = getattr(self.base.config, "do_normalize", None)
        if normalised is None:
            raise EncoderError(
                f"Whether {type(self.base).__name__} takes clips of unit variance is in its feature extractor: give "
                "that to AudioEmbedder or UaMixTrainer, or set encoder.config.do_normalize."
            )
        frames = max(input_values.shape[1], self.patch_shape[0])
        waves = F.pad(input_values.float(), (0, 0, 0, frames - input_values.shape[1])).flatten(1)
        samples = (lengths * self.patch_shape[1])[:, None]
        valid = torch.arange(waves.shape[1], device=waves.device) < samples
        waves = waves * valid
        if not normalised:
            return waves
        centred = (waves - waves.sum(dim=1, keepdim=True) / samples) * valid
        variance = centred.square().sum(dim=1, keepdim=True) / samples
        return centred / (variance + VARIANCE_FLOOR).sqrt()

    def valid_tokens(self, lengths: torch.Tensor, frames: int, mel_bins: int) -> torch.Tensor:
        size, stride = self.patch, self.strides[0]
        start = torch.arange(0, max(frames, size) - size + 1, stride, device=lengths.device)
        return (start + size <= lengths.clamp_min(size)[:, None])[..., None].float()

    def run(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[Any, torch.Tensor | None]:
        waves = self.waveforms(input_values, lengths).to(self.base.dtype)
        samples = lengths.clamp_min(self.patch_shape[0]) * self.patch_shape[1]
        sizes = samples.unique().tolist()
        visible = self.valid_tokens(lengths, input_values.shape[1], 1)
        with self.unmasked():
            if self.masks_padding or len(sizes) == 1:
                waves = waves[:, : sizes[-1]]
                valid = torch.arange(sizes[-1], device=waves.device) < samples[:, None]
                mask = {"attention_mask": valid.long()} if len(sizes) > 1 else {}
                return self.layer_output(input_values=waves, **mask), visible
            rows = [(samples == size).nonzero()[:, 0] for size in sizes]
            parts = [
                self.layer_output(input_values=waves[row, :size]).last_hidden_state
                for row, size in zip(rows, sizes, strict=True)
            ]
        hidden = pad_sequence([clip for part in parts for clip in part], batch_first=True)
        return BaseModelOutput(last_hidden_state=hidden[torch.cat(rows).argsort()]), visible

    def unmasked(self) -> ExitStack:
        """A context in which the encoder masks no token and skips no layer."""
        stack = ExitStack()
        owners = [self.base.config, *(module for module in self.base.modules() if hasattr(module, "layerdrop"))]
        for owner in owners:
            stack.enter_context(overridden(owner, **{name: MASKS[name] for name in MASKS if hasattr(owner, name)}))
        return stack

    def pool(self, output: Any, lengths: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        # Of `last_hidden_state` itself, which may have more or fewer tokens than the layers that `valid` is of.
        hidden = output.last_hidden_state.float()
        samples = lengths.clamp_min(self.patch_shape[0]) * self.patch_shape[1]
        tokens = self.convolutions.tokens(samples, inside=self.cut)[:, None]
        weights = torch.arange(hidden.shape[1], device=hidden.device) < tokens
        return self.statistics(hidden, lambda values: (values * weights[..., None]).sum(dim=1) / tokens)

    def token_grid(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return hidden[:, :, None]

    def time_tokens(self, lengths: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        samples = lengths.clamp_min(self.patch_shape[0]) * self.patch_shape[1]
        return self.convolutions.tokens(samples, inside=self.cut)

    def token_positions(self, count: int) -> np.ndarray:
        centre, stride = self.convolutions.centres(inside=self.cut)
        return (centre + np.arange(count) * stride) / self.patch_shape[1] - 0.5


__all__ = ["WaveformAdapter"]
