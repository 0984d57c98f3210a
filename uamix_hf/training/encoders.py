"""What tuning needs of an encoder, so that any `PreTrainedModel` of log-mels can be tuned."""

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

# Where transformers' models and their cousins keep their blocks.
LAYER_PATHS = ("layers", "encoder.layers", "encoder.layer", "blocks", "encoder.blocks")


class EncoderError(TypeError):
    """An encoder that does not meet the contract; the message says which part."""


def base_of(encoder: Any) -> PreTrainedModel:
    """The model in a `PeftModel`, in whose layers the adapters are; any other is itself."""
    if not hasattr(encoder, "get_base_model"):
        return encoder
    settings = encoder.active_peft_config
    if settings.is_prompt_learning:
        raise EncoderError(
            f"{settings.peft_type.value}: tuning takes adapters in the layers, such as LoRA, not prompts."
        )
    return encoder.get_base_model()


class EncoderAdapter:
    """
    The encoder contract: a `PreTrainedModel` whose forward takes `input_values` (batch, frames, mel bins) and returns
    `last_hidden_state` and perhaps `pooler_output`, and that keeps its blocks in an ordered list.

    An encoder that takes any number of frames and a frame-level `attention_mask` says so by `variable_length = True`;
    others (AST) get input padded to `config.max_length`. One whose forward knows `mask_ratio` can drop tokens. Its
    embeddings are as wide as `config.embedding_size`, where there is one, or else as `config.hidden_size`.

    It may carry adapters (LoRA and others): put in by `add_adapter`, or in a `PeftModel`, whose model inside, with the
    adapters in its layers, is what meets the contract. `encoder` is what was given, `base` the model inside.

    Args:
        layers_path: Where the blocks are, such as `"encoder.layers"`; found by name if None.

    Raises:
        EncoderError: no list of blocks, no `input_values`, or a configuration without the sizes that are needed; or an
            adapter that is not in the layers but in the input.
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
            raise EncoderError(f"{type(encoder).__name__} has no list of blocks at {self.layers_path!r}.") from error
        missing = [name for name in ("hidden_size", "max_length", "patch_size") if not hasattr(encoder.config, name)]
        if missing:
            raise EncoderError(
                f"{type(encoder).__name__}'s configuration has no {' and no '.join(missing)}: is it one of log-mels?"
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
        for path in LAYER_PATHS:
            try:
                if isinstance(self.base.get_submodule(path), nn.ModuleList):
                    return path
            except AttributeError:
                continue
        raise EncoderError(
            f"{type(self.base).__name__} keeps its blocks at none of {', '.join(LAYER_PATHS)}: give layers_path."
        )

    def stem(self) -> Iterator[nn.Module | nn.Parameter]:
        """What comes before the blocks: everything that the modules on their path declare before them."""
        module: nn.Module = self.base
        for part in self.layers_path.split("."):
            yield from module.parameters(recurse=False)
            for name, child in module.named_children():
                if name == part:
                    break
                yield child
            module = module.get_submodule(part)

    def lower_parts(self, layers: int) -> list[nn.Module | nn.Parameter]:
        """This many lower layers and all that comes before them, which are frozen together; nothing for 0.

        Raises:
            ValueError: the encoder has fewer layers.
        """
        if not 0 <= layers <= len(self.layers):
            raise ValueError(f"freeze_blocks={layers}: the encoder has {len(self.layers)} layers.")
        return [*self.stem(), *self.layers[:layers]] if layers else []

    def trainable_names(self) -> set[str]:
        """Names of the encoder's parameters that tuning may train: neither frozen by the user nor fixed by the
        encoder's class. Of an encoder with adapters the user, or `peft`, has frozen all others.

        Loading makes every parameter trainable, also tables of positions that the class keeps fixed, so a fresh
        skeleton of the encoder is asked.
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
        """Depth of each parameter by name: 0 for the stem, i + 1 for block i, blocks + 1 for what follows them."""
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
        """Pooled embeddings (batch, width) float32, and the tokens that were seen, (batch, time, mel) with 1 = valid
        and not dropped, or None for encoders of fixed length.

        Args:
            input_values: Normalised (batch, frames, mel bins). lengths: Frames of sound (batch,).
            padding_value: What normalised padding is, for encoders of fixed length.
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
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state.float().mean(dim=1) if pooled is None else pooled.float()


__all__ = ["EncoderAdapter", "EncoderError"]
