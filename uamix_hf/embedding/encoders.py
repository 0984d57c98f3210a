"""The encoder contract, by which any `PreTrainedModel` of spectrograms or waveforms can be embedded and tuned."""

import inspect
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from ..models.front_ends import FrontEnd
from .checks import SIZES, check_length, check_sizes
from .frames import FrameTokens
from .layers import EncoderError, EncoderLayers, base_of
from .pooling import TokenPooling, whiten
from .settings import EmbeddingConfigError, EmbeddingSettings


class EncoderAdapter(EncoderLayers, TokenPooling, FrameTokens):
    """Uniform access to one kind of encoder: how to load it, what its input is, where its layers are, its embedding.

    Shared code passes normalised log-mels (batch, frames, mel bins) of [`AudioMAEFeatureExtractor`] to [`encode`],
    which arranges them as the encoder takes them. This class is the adapter of a `PreTrainedModel` whose forward takes
    `input_values` (batch, frames, mel bins) and returns `last_hidden_state` and optionally `pooler_output`, and whose
    layers are in an ordered list. Other kinds are subclasses, see [`register_encoder`].

    An encoder that takes any number of frames and a frame-level `attention_mask` has the attribute `variable_length =
    True`; the input of others (AST) is padded to `config.max_length`. An encoder whose forward takes `mask_ratio` can
    drop tokens. Embeddings have `config.embedding_size` dimensions if it exists, else `config.hidden_size`.

    The encoder may have adapters such as LoRA, by `add_adapter` or in a `PeftModel`, whose inner model must then meet
    the contract. `encoder` is the given model, `base` the inner one, `layers` those up to the embedding's.

    Args:
        encoder: The encoder.
        layers_path: Path of its list of layers, such as `"encoder.layers"`; searched if None.

    Raises:
        EncoderError: No list of layers, another input, a configuration without the necessary sizes, or adapters in the
            input instead of the layers.
        EmbeddingConfigError: The encoder's `embedding_settings` name a layer or pooling that it does not have.
    """

    # Name of the input in the encoder's forward.
    input_name: ClassVar[str] = "input_values"
    # What the features are, "log-mel" or "waveform": gain and other augmentations act on them accordingly.
    domain: ClassVar[str] = "log-mel"
    # Name of the class of the encoder's own feature extractor, where [`make_front_end`] takes no other.
    extractor_class: ClassVar[str | None] = None
    # Whether the encoder's own configuration chooses layer and pooling, and whether it has a whitening of its own.
    own_fields: ClassVar[bool] = False
    own_whitening: ClassVar[bool] = False
    # The encoder's own classifier, whose `base_model` it is; None where the generic one is made of it.
    classifier_class: ClassVar[type[PreTrainedModel] | None] = None

    def __init__(self, encoder: PreTrainedModel, layers_path: str | None = None):
        self.encoder = encoder
        encoder = self.base = base_of(encoder)
        parameters = inspect.signature(encoder.forward).parameters
        if self.input_name not in parameters:
            taken = [
                name for name, one in parameters.items() if one.default is one.empty and one.kind != one.VAR_KEYWORD
            ]
            raise EncoderError(
                f"{type(encoder).__name__}.forward takes {', '.join(taken or list(parameters)[:1])}, not "
                f"{self.input_name}: register an adapter for its model_type by uamix_hf.embedding.register_encoder."
            )
        self.layers_path = layers_path or self.find_layers()
        try:
            layers: list[nn.Module] = list(encoder.get_submodule(self.layers_path))  # type: ignore[call-overload]
        except (AttributeError, TypeError) as error:
            raise EncoderError(f"{type(encoder).__name__} has no list of layers at {self.layers_path!r}.") from error
        self.drops_tokens = "mask_ratio" in parameters
        self.settings: EmbeddingSettings = getattr(encoder, "embedding_settings", None) or EmbeddingSettings()
        self.read_sizes(encoder.config)
        self.check_settings(self.settings, len(layers))
        if self.settings.pooling == "mean_std":
            self.pooled_size *= 2
        self.layers = layers[: self.settings.layer]
        self.cut = self.settings.layer is not None

    def read_sizes(self, config: Any) -> None:
        """Sets `variable_length`, `max_frames`, `pooled_size`, `patch`, `patch_shape` and `strides`.

        `pooled_size` is that of a mean over tokens; with `pooling="mean_std"` it is doubled afterwards.
        `patch_shape` and `strides` are (frames, mel bins) of a token, and from token to token.

        Raises:
            EncoderError: The configuration has no such sizes.
        """
        name = type(self.base).__name__
        missing = [size for size in ("hidden_size", "max_length", "patch_size") if not hasattr(config, size)]
        if missing:
            raise EncoderError(f"{name}'s configuration has no {' and no '.join(missing)}: is its input log-mels?")
        self.variable_length: bool = getattr(self.base, "variable_length", False)
        self.max_frames: int = config.max_length
        self.pooled_size: int = getattr(config, "embedding_size", config.hidden_size)
        self.patch: int = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[-1]
        # Square patches that do not overlap by default.
        mel_bins = getattr(config, "patch_mel_bins", None) or self.patch
        self.patch_shape: tuple[int, int] = getattr(config, "patch_shape", (self.patch, mel_bins))
        self.strides: tuple[int, int] = getattr(config, "strides", self.patch_shape)

    def check_settings(self, settings: EmbeddingSettings, layers: int) -> None:
        """Checks that the encoder has the layer and the pooling.

        Raises:
            EmbeddingConfigError: It does not.
        """
        name = type(self.base).__name__
        if self.own_fields and (settings.layer, settings.pooling) != (None, None):
            raise EmbeddingConfigError(
                f"{name} chooses layer and pooling by its configuration, not by embedding_settings."
            )
        if settings.layer is not None and not 1 <= settings.layer <= layers:
            raise EmbeddingConfigError(f"layer={settings.layer}: {name} has the layers 1 to {layers}.")
        if settings.pooling not in (None, *self.poolings):
            raise EmbeddingConfigError(f"pooling={settings.pooling!r}: {name} has {', '.join(self.poolings)}.")
        if settings.pooling == "pooler" and settings.layer is not None:
            raise EmbeddingConfigError(
                f"pooling='pooler' is of the last output of {name}, not of layer {settings.layer}."
            )

    @property
    def embedding_size(self) -> int:
        """Dimensions of an embedding."""
        return self.pooled_size if self.settings.whitening is None else self.settings.whitening[1].shape[1]

    @property
    def pooling(self) -> str:
        """Name of the pooling: the one that is chosen, or else the encoder's own."""
        own = getattr(self.base.config, "pooling", None) if self.own_fields else None
        first = "the encoder's own" if self.poolings[0] == "pooler" else self.poolings[0]
        return self.settings.pooling or own or first

    def learnt_pooling(self) -> list[str]:
        """Names of the encoder's modules whose weights pool its tokens, to be trained beside adapters such as LoRA."""
        return []

    @classmethod
    def load(cls, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """Loads an encoder of this kind.

        Args:
            name_or_path: Folder or Hub repository.
            **kwargs: Keywords of `from_pretrained`.
        """
        return AutoModel.from_pretrained(name_or_path, **kwargs)

    def text_encoder(self, name_or_path: str, **kwargs: Any) -> Any:
        """What embeds text in the space of the embedding by `encode(texts, device)`; None where there is no such space.

        Args:
            name_or_path: Folder or Hub repository of the encoder.
            **kwargs: Keywords of `from_pretrained`.
        """
        return None

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> PreTrainedModel:
        """Makes an encoder of this kind with random weights."""
        return AutoModel.from_config(config)

    @classmethod
    def chosen_fields(cls, config: Any, layer: int | None, pooling: str | None) -> dict[str, Any]:
        """Fields of the encoder's own configuration that choose a layer and a pooling, where it has them.

        Raises:
            EmbeddingConfigError: An encoder of this configuration has no such layer.
        """
        return {}

    @classmethod
    def read_settings(cls, encoder: Any) -> EmbeddingSettings:
        """Layer, pooling and whitening of an encoder, also those in its own configuration and weights."""
        return getattr(encoder, "embedding_settings", None) or EmbeddingSettings()

    @classmethod
    def set_whitening(cls, encoder: Any, whitening: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """Sets or removes the whitening of an encoder, as in [`EmbeddingSettings`]."""
        encoder.embedding_settings = replace(EncoderAdapter.read_settings(encoder), whitening=whitening)

    @classmethod
    def make_front_end(cls, config: Any, feature_extractor: Any) -> FrontEnd:
        """The front end of raw and normalised features that computes what the encoder's own feature extractor does.

        Args:
            config: The encoder's configuration.
            feature_extractor: The encoder's own feature extractor.

        Raises:
            ValueError: Settings that cannot be reproduced.
        """
        return feature_extractor

    @classmethod
    def own_extractor(cls, config: Any, front_end: Any) -> Any:
        """The encoder's own feature extractor, which is saved with it: the inverse of [`make_front_end`].

        Args:
            config: The encoder's configuration.
            front_end: A front end that fits the encoder. Encoders without a feature extractor of their own have it.

        Returns:
            A feature extractor whose front end is the given one, but for settings that its class cannot have.
        """
        return front_end

    @classmethod
    def record_front_end(cls, config: Any, front_end: FrontEnd) -> None:
        """Records in the encoder's configuration what [`run`] needs of the front end, to be saved with the encoder.

        Args:
            config: The encoder's configuration.
            front_end: The front end whose features the encoder gets.

        Raises:
            ValueError: The configuration says otherwise already.
        """

    def check_fit(self, extractor: Any) -> None:
        """Checks that a feature extractor's spectrograms fit the encoder.

        Raises:
            ValueError: They do not.
        """
        # Encoders of fixed length get their patches from whatever is padded to it.
        check_sizes(self.base.config, extractor, SIZES if self.variable_length else SIZES[:1])
        check_length(extractor, self.max_frames)

    def encode(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Computes embeddings: pooled, and whitened if the encoder has a whitening.

        Args:
            input_values: Normalised (batch, frames, mel bins).
            lengths: Frames of audio (batch,).
            token_drop: Fraction of the tokens to drop, if the encoder can.
            padding_value: Value of padding after normalisation, for encoders that have none of their own.

        Returns:
            Embeddings (batch, embedding_size) float32, and the visible tokens (batch, time, mel) with 1 = valid and not
            dropped, or None for encoders of fixed length.
        """
        output, visible = self.run(input_values, lengths, token_drop, padding_value)
        seen = self.valid_tokens(lengths, self.max_frames, input_values.shape[2]) if visible is None else visible
        pooled = self.pool(output, lengths, seen)
        if self.settings.whitening is not None:
            pooled = whiten(pooled, self.settings.whitening)
        return pooled, visible

    def run(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[Any, torch.Tensor | None]:
        """Runs the encoder; see [`encode`].

        Returns:
            The encoder's output, whose `last_hidden_state` is that of the embedding's layer; and the visible tokens.
        """
        size, stride = self.patch_shape[0], self.strides[0]
        if self.variable_length and stride < size:  # what the last whole patch does not cover is cut off
            input_values = input_values[:, : size + (input_values.shape[1] - size) // stride * stride]
        frames = input_values.shape[1]
        valid = torch.arange(frames, device=input_values.device) < lengths[:, None]
        input_values = input_values.masked_fill(~valid[..., None], padding_value).to(self.base.dtype)
        if not self.variable_length:
            input_values = F.pad(input_values, (0, 0, 0, self.max_frames - frames), value=padding_value)
            return self.layer_output(input_values=input_values), None
        drop = {"mask_ratio": token_drop} if self.drops_tokens and token_drop > 0 else {}
        output = self.layer_output(input_values=input_values, attention_mask=valid.long(), **drop)
        visible = self.valid_tokens(lengths, frames, input_values.shape[2])
        if drop:
            visible = visible * (1 - output.mask.float().unflatten(1, (-1, visible.shape[2])))
        return output, visible

    def layer_output(self, **inputs: Any) -> Any:
        """The encoder's output; where the settings name a layer, `last_hidden_state` is that layer's, unpooled."""
        if self.settings.layer is None:
            return self.base(**inputs)
        found: list[Any] = []
        handle = self.layers[-1].register_forward_hook(lambda module, args, output: found.append(output))
        try:
            output = self.base(**inputs)
        finally:
            handle.remove()
        output.last_hidden_state = found[0][0] if isinstance(found[0], tuple) else found[0]
        output.pooler_output = None
        return output


__all__ = ["EncoderAdapter", "EncoderError", "base_of"]
