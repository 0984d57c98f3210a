"""Adapter of CLAP's audio model, and the text model of its space."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, ClapFeatureExtractor, PreTrainedConfig, PreTrainedModel

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.front_ends import front_end
from .checks import check_length, check_statistics
from .encoders import EncoderAdapter, EncoderError
from .loading import load_config, load_part
from .overrides import overridden
from .settings import LOCATION, EmbeddingConfigError, EmbeddingSettings

FRAMES = 1001  # of 10 s
SILENCE = -100.0  # dB
# Tokens of the text model's input in the official code, whose longer texts are cut.
LONGEST_TEXT = 77


class ClapAdapter(EncoderAdapter):
    """Adapter of `ClapAudioModel`, whose input is `input_features` (batch, 1, 1001 frames, mel bins) in dB.

    A clip of less than 10 s is repeated as often as it fits, then padded with silence. The log-mel is repeated here,
    after augmentation, where `ClapFeatureExtractor` repeats the waveform: they differ in the frames at the seams, and
    where the clip is no whole number of frames. Models with `enable_fusion` take windows of 10 s of longer recordings
    too, as others do, by the path of clips that are not longer (`is_longer` is false), of which one channel suffices.

    A layer is a stage of the Swin transformer, of 4 stages in the published models; its output comes after patch
    merging, which doubles the hidden size in all stages but the last. `"mean"` over the tokens of the last output is
    the model's `pooler_output`, `"mean_std"` adds their standard deviation; `"projection"` is the projection into the
    space that audio and text share, not scaled to unit length. Batch normalisation of the input keeps its running
    statistics while tuning.

    Args:
        encoder: The encoder: `ClapAudioModel`, or `ClapAudioModelWithProjection` for `"projection"`.
        layers_path: As in [`EncoderAdapter`].
    """

    input_name = "input_features"
    extractor_class = "ClapFeatureExtractor"
    poolings = ("mean", "mean_std", "projection")

    @property
    def swin(self) -> Any:
        """The `ClapAudioEncoder` in either class."""
        return getattr(self.base, "audio_model", self.base).audio_encoder

    def find_layers(self) -> str:
        name = type(self.base).__name__
        if name not in ("ClapAudioModel", "ClapAudioModelWithProjection"):
            raise EncoderError(f"{name} is not CLAP's audio model: give model.audio_model.")
        return ("" if name == "ClapAudioModel" else "audio_model.") + "audio_encoder.layers"

    def read_sizes(self, config: Any) -> None:
        widest = config.spec_size * (config.spec_size // config.num_mel_bins)
        if widest < FRAMES:
            raise EncoderError(
                f"{type(self.base).__name__} has spec_size={config.spec_size} and num_mel_bins={config.num_mel_bins}: "
                f"it takes {widest} frames, and CLAP's feature extractor makes {FRAMES}."
            )
        self.variable_length = False
        self.max_frames = FRAMES
        stages = len(config.depths)
        self.merged = min(self.settings.layer or stages, stages - 1)  # times that patches were merged
        self.pooled_size = config.patch_embeds_hidden_size * 2**self.merged
        if self.settings.pooling == "projection":
            self.pooled_size = config.projection_dim
        self.patch = 1  # frames are interpolated to whole patches
        self.patch_shape = self.strides = (1, config.num_mel_bins)

    def check_settings(self, settings: EmbeddingSettings, layers: int) -> None:
        super().check_settings(settings, layers)
        if settings.pooling != "projection":
            return
        if not hasattr(self.base, "audio_projection"):
            raise EmbeddingConfigError(
                f"pooling='projection': {type(self.base).__name__} has none: load it from the folder of a whole model, "
                "load_encoder(folder, pooling='projection')."
            )
        if settings.layer is not None:
            raise EmbeddingConfigError(f"pooling='projection' is of the last output, not of layer {settings.layer}.")

    @classmethod
    def chosen_fields(cls, config: Any, layer: int | None, pooling: str | None) -> dict[str, Any]:
        return {"projection": True} if pooling == "projection" else {}

    @classmethod
    def load(cls, name_or_path: str, projection: bool = False, **kwargs: Any) -> PreTrainedModel:
        """Loads the audio model of a folder that holds it alone, with its projection, or in a whole model.

        Its weights are float32 unless `dtype` is given.

        Args:
            name_or_path: Folder or Hub repository.
            projection: Whether to load the projection of a whole model as well.
            **kwargs: Keywords of `from_pretrained`.

        Raises:
            EncoderError: The folder lacks weights of the audio model, or of the projection.
        """
        from transformers import ClapAudioModel, ClapAudioModelWithProjection

        kwargs = {"dtype": torch.float32, **kwargs}
        config = load_config(name_or_path, **kwargs)
        if projection or config.architectures == ["ClapAudioModelWithProjection"]:
            kind: type[PreTrainedModel] = ClapAudioModelWithProjection
        else:
            kind = ClapAudioModel
        if config.architectures == [kind.__name__]:
            return kind.from_pretrained(name_or_path, **kwargs)
        prefix = r"^audio_model\." if kind is ClapAudioModel else ""
        return load_part(kind, name_or_path, getattr(config, "audio_config", config), prefix, **kwargs)

    def text_encoder(self, name_or_path: str, **kwargs: Any) -> "ClapTextEncoder | None":
        text = getattr(load_config(name_or_path, **kwargs), "text_config", None)
        if self.settings.pooling != "projection" or text is None:
            return None
        return ClapTextEncoder(name_or_path, text, **{"dtype": torch.float32, **kwargs})

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> PreTrainedModel:
        from transformers import ClapAudioModel, ClapAudioModelWithProjection

        projected = config.architectures == ["ClapAudioModelWithProjection"]
        return (ClapAudioModelWithProjection if projected else ClapAudioModel)._from_config(config)

    @classmethod
    def make_front_end(cls, config: Any, feature_extractor: Any) -> AudioMAEFeatureExtractor:
        made = feature_extractor
        if made.padding != "repeatpad":
            raise ValueError(f"padding={made.padding!r}: short clips are repeated here, as with padding='repeatpad'.")
        if (frames := made.nb_max_samples // made.hop_length + 1) != FRAMES:
            raise ValueError(f"The feature extractor makes {frames} frames, and CLAP's encoder takes {FRAMES}.")
        scale = {"mel_scale": "htk", "mel_norm": None} if made.truncation == "fusion" else {}
        return front_end(
            "clap", sampling_rate=made.sampling_rate, num_mel_bins=made.feature_size, n_fft=made.fft_window_size,
            frame_length=made.fft_window_size, frame_shift=made.hop_length, low_frequency=float(made.frequency_min),
            high_frequency=float(made.frequency_max), **scale,
        )  # fmt: skip

    @classmethod
    def own_extractor(cls, config: Any, front_end: Any) -> ClapFeatureExtractor:
        made = front_end
        return ClapFeatureExtractor(
            feature_size=made.num_mel_bins, sampling_rate=made.sampling_rate, hop_length=made.frame_shift,
            max_length_s=(FRAMES - 1) * made.frame_shift // made.sampling_rate, fft_window_size=made.n_fft,
            frequency_min=made.low_frequency, frequency_max=made.high_frequency,
            truncation="fusion" if made.mel_scale == "htk" else "rand_trunc",
        )  # fmt: skip

    def check_fit(self, extractor: Any) -> None:
        check_statistics(extractor, "clap", num_mel_bins=self.base.config.num_mel_bins)
        check_length(extractor, self.max_frames)

    def stem(self) -> Iterator[nn.Module | nn.Parameter]:
        yield from super().stem()
        yield self.swin.batch_norm  # declared after the layers

    def trainable_names(self) -> set[str]:
        # Of windows that are not longer nothing passes the fusion; and the projection only as an embedding.
        idle = [".fusion_model.", ".mel_conv2d."] + ["audio_projection."] * (self.settings.pooling != "projection")
        return {name for name in super().trainable_names() if not any(part in f".{name}" for part in idle)}

    def repeated(self, input_values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Each clip repeated as often as it fits into 10 s, then silence: (batch, 1001, mel bins).

        The last frame is centred on the end of the waveform, so that the first one of the next copy takes its place.

        Args:
            input_values: Normalised (batch, frames, mel bins).
            lengths: Frames of audio (batch,).
        """
        period = (lengths - 1).clamp_min(1)[:, None]
        filled = (self.max_frames - 1) // period * period
        place = torch.arange(self.max_frames, device=input_values.device)
        index = torch.where(place == filled, (lengths - 1)[:, None], place % period)
        values = input_values.gather(1, index[..., None].expand(-1, -1, input_values.shape[2]))
        return values.masked_fill((place > filled)[..., None], SILENCE)

    def run(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[Any, torch.Tensor | None]:
        features = self.repeated(input_values, lengths)[:, None].to(self.base.dtype)
        longer = torch.zeros(len(features), 1, dtype=torch.bool, device=features.device)
        with overridden(self.swin.batch_norm, training=False):
            output = self.layer_output(input_features=features, is_longer=longer)
        if self.settings.layer is None:  # (batch, hidden, frequency, time)
            output.last_hidden_state = output.last_hidden_state.flatten(2).mT
        return output, None

    def pool(self, output: Any, lengths: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        if self.settings.pooling == "projection":
            return output.audio_embeds.float()
        # Also over silence, as its own pooled output.
        return self.statistics(output.last_hidden_state.float(), lambda tokens: tokens.mean(dim=1))

    def token_grid(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        times = self.times
        if self.settings.layer is None:  # (frequency, time)
            return hidden.unflatten(1, (-1, times)).transpose(1, 2)
        # Of the image, whose rows are a part of the time after the other, each with all frequencies.
        parts = self.swin.freq_ratio
        grid = hidden.unflatten(1, (parts, -1, times // parts))
        return grid.transpose(2, 3).flatten(1, 2)

    @property
    def times(self) -> int:
        """Tokens of 10 s."""
        config: Any = self.swin.config
        return self.swin.freq_ratio * (config.spec_size // config.patch_stride[1] // 2**self.merged)

    def token_positions(self, count: int) -> np.ndarray:
        # 1001 frames are interpolated to as many as the image has, the first and the last of which stay.
        image = self.swin.spec_size * self.swin.freq_ratio
        size = image / self.times
        return (np.arange(count) * size + (size - 1) / 2) * (self.max_frames - 1) / (image - 1)

    def time_tokens(self, lengths: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        # Of the clip itself, not of its repetitions.
        positions = torch.from_numpy(self.token_positions(self.times)).to(lengths.device)
        return (positions < lengths[:, None]).sum(dim=1).clamp_min(1)


class ClapTextEncoder:
    """The text model of CLAP with its projection.

    Args:
        name_or_path: Folder or Hub repository of a whole model.
        config: Configuration of its text model.
        **kwargs: Keywords of `from_pretrained`.

    Raises:
        OSError: The folder has no tokenizer.
        EncoderError: The folder lacks weights of the text model.
    """

    def __init__(self, name_or_path: str, config: Any, **kwargs: Any):
        from transformers import ClapTextModelWithProjection

        self.model = load_part(ClapTextModelWithProjection, name_or_path, config, "", **kwargs).eval()
        located = {key: kwargs[key] for key in LOCATION if key in kwargs}
        self.tokenizer = AutoTokenizer.from_pretrained(name_or_path, **located)

    @torch.inference_mode()
    def encode(self, texts: list[str], device: torch.device) -> np.ndarray:
        """Computes the embeddings (texts, projection_dim) float32 of one batch, not scaled to unit length.

        Args:
            texts: The texts.
            device: Device of the computation.
        """
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST_TEXT, return_tensors="pt")
        return self.model.to(device)(**inputs.to(device)).text_embeds.float().cpu().numpy()


__all__ = ["ClapAdapter", "ClapTextEncoder"]
