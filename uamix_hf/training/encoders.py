"""The encoder contract, by which any `PreTrainedModel` of log-mels can be tuned."""

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

# Paths of the list of layers in transformers' and similar models.
LAYER_PATHS = ("layers", "encoder.layers", "encoder.layer", "blocks", "encoder.blocks")


class EncoderError(TypeError):
    """An encoder that does not meet the contract; the message says which part of it."""


def base_of(encoder: Any) -> PreTrainedModel:
    """Returns the model inside a `PeftModel`, or the encoder itself.

    Raises:
        EncoderError: Prompt learning, whose parameters are not in the layers.
    """
    if not hasattr(encoder, "get_base_model"):
        return encoder
    settings = encoder.active_peft_config
    if settings.is_prompt_learning:
        raise EncoderError(
            f"{settings.peft_type.value}: tuning takes adapters in the layers, such as LoRA, not prompts."
        )
    return encoder.get_base_model()


class EncoderAdapter:
    """Uniform access to an encoder that meets the encoder contract.

    The contract: a `PreTrainedModel` whose forward takes `input_values` (batch, frames, mel bins) and returns
    `last_hidden_state` and optionally `pooler_output`, and whose layers are in an ordered list.

    An encoder that takes any number of frames and a frame-level `attention_mask` has the attribute `variable_length =
    True`; the input of others (AST) is padded to `config.max_length`. An encoder whose forward takes `mask_ratio` can
    drop tokens. Embeddings have `config.embedding_size` dimensions if it exists, else `config.hidden_size`.

    The encoder may have adapters such as LoRA, by `add_adapter` or in a `PeftModel`, whose inner model must then meet
    the contract. `encoder` is the given model, `base` the inner one.

    Args:
        encoder: The encoder.
        layers_path: Path of its list of layers, such as `"encoder.layers"`; searched if None.

    Raises:
        EncoderError: No list of layers, no `input_values`, a configuration without the necessary sizes, or adapters in
            the input instead of the layers.
    """

    def __init__(self, encoder: PreTrainedModel, layers_path: str | None = None):
        self.encoder = encoder
        encoder = self.base = base_of(encoder)
        parameters = inspect.signature(encoder.forward).parameters
        if "input_values" not in parameters:
            raise EncoderError(f"{type(encoder).__name__}.forward has no input_values: it does not take log-mels.")
        self.layers_path = layers_path or self.find_layers()
        try:
            self.layers: list[nn.Module] = list(encoder.get_submodule(self.layers_path))  # type: ignore[call-overload]
        except (AttributeError, TypeError) as error:
            raise EncoderError(f"{type(encoder).__name__} has no list of layers at {self.layers_path!r}.") from error
        missing = [name for name in ("hidden_size", "max_length", "patch_size") if not hasattr(encoder.config, name)]
        if missing:
            raise EncoderError(
                f"{type(encoder).__name__}'s configuration has no {' and no '.join(missing)}: is its input log-mels?"
            )
        self.variable_length = getattr(encoder, "variable_length", False)
        self.drops_tokens = "mask_ratio" in parameters
        self.max_frames: int = encoder.config.max_length
        self.embedding_size: int = getattr(encoder.config, "embedding_size", encoder.config.hidden_size)
        patch = encoder.config.patch_size
        self.patch: int = patch if isinstance(patch, int) else patch[-1]
        # (frames, mel bins) of a patch, and from patch to patch; square patches that do not overlap by default
        mel_bins = getattr(encoder.config, "patch_mel_bins", None) or self.patch
        self.patch_shape: tuple[int, int] = getattr(encoder.config, "patch_shape", (self.patch, mel_bins))
        self.strides: tuple[int, int] = getattr(encoder.config, "strides", self.patch_shape)

    def find_layers(self) -> str:
        """Searches the list of layers.

        Raises:
            EncoderError: There is none at a known path.
        """
        for path in LAYER_PATHS:
            try:
                if isinstance(self.base.get_submodule(path), nn.ModuleList):
                    return path
            except AttributeError:
                continue
        raise EncoderError(
            f"{type(self.base).__name__} has its layers at none of {', '.join(LAYER_PATHS)}: give layers_path."
        )

    def stem(self) -> Iterator[nn.Module | nn.Parameter]:
        """Yields everything before the layers: what the modules on their path declare before them."""
        module: nn.Module = self.base
        for part in self.layers_path.split("."):
            yield from module.parameters(recurse=False)
            for name, child in module.named_children():
                if name == part:
                    break
                yield child
            module = module.get_submodule(part)

    def lower_parts(self, layers: int) -> list[nn.Module | nn.Parameter]:
        """Lower layers and everything before them, which are frozen together; empty for 0 layers.

        Raises:
            ValueError: The encoder has fewer layers.
        """
        if not 0 <= layers <= len(self.layers):
            raise ValueError(f"freeze_blocks={layers}: the encoder has {len(self.layers)} layers.")
        return [*self.stem(), *self.layers[:layers]] if layers else []

    def trainable_names(self) -> set[str]:
        """Names of the encoder's parameters that tuning may train: not frozen by the user, nor fixed by its class.

        With adapters, all other parameters have been frozen by the user or by `peft`. Loading makes every parameter
        trainable, also position tables that the class keeps fixed, so these are looked up in a new instance.
        """
        with torch.device("meta"):
            skeleton = type(self.base)(copy.deepcopy(self.base.config))
        fixed = {
            id(self.base.get_parameter(name)) for name, value in skeleton.named_parameters() if not value.requires_grad
        }
        return {
            name for name, value in self.encoder.named_parameters() if value.requires_grad and id(value) not in fixed
        }

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter by name: 0 for the stem, i + 1 for layer i, layers + 1 for everything after them."""
        stem = set()
        for part in self.stem():
            stem |= {id(parameter) for parameter in (part.parameters() if isinstance(part, nn.Module) else [part])}
        depth = {id(parameter): i + 1 for i, layer in enumerate(self.layers) for parameter in layer.parameters()}
        last = len(self.layers) + 1
        return {
            name: 0 if id(parameter) in stem else depth.get(id(parameter), last)
            for name, parameter in self.encoder.named_parameters()
        }

    def encode(
        self, input_values: torch.Tensor, lengths: torch.Tensor, token_drop: float, padding_value: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Computes pooled embeddings.

        Args:
            input_values: Normalised (batch, frames, mel bins).
            lengths: Frames of audio (batch,).
            token_drop: Fraction of the tokens to drop, if the encoder can.
            padding_value: Value of padding after normalisation.

        Returns:
            Embeddings (batch, embedding_size) float32, and the visible tokens (batch, time, mel) with 1 = valid and not
            dropped, or None for encoders of fixed length.
        """
        (size, mel_size), (stride, mel_stride) = self.patch_shape, self.strides
        if self.variable_length and stride < size:  # what the last whole patch does not cover is cut off
            input_values = input_values[:, : size + (input_values.shape[1] - size) // stride * stride]
        frames = input_values.shape[1]
        valid = torch.arange(frames, device=input_values.device) < lengths[:, None]
        input_values = input_values.masked_fill(~valid[..., None], padding_value).to(self.base.dtype)
        if not self.variable_length:
            input_values = F.pad(input_values, (0, 0, 0, self.max_frames - frames), value=padding_value)
            return self.pool(self.base(input_values=input_values)), None
        drop = {"mask_ratio": token_drop} if self.drops_tokens and token_drop > 0 else {}
        output = self.base(input_values=input_values, attention_mask=valid.long(), **drop)
        start = torch.arange(0, frames - size + 1, stride, device=input_values.device)
        # A token is valid if a frame is that no earlier token covers.
        visible = (lengths[:, None] > start + (start > 0) * (size - stride))[..., None]
        mel_tokens = (input_values.shape[2] - mel_size) // mel_stride + 1
        visible = visible.expand(-1, -1, mel_tokens).float()
        if drop:
            visible = visible * (1 - output.mask.float().unflatten(1, (-1, mel_tokens)))
        return self.pool(output), visible

    def pool(self, output) -> torch.Tensor:
        """Pooled output float32; the mean over tokens if the encoder has none."""
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state.float().mean(dim=1) if pooled is None else pooled.float()


__all__ = ["EncoderAdapter", "EncoderError"]
