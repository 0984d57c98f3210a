"""Where the layers of an encoder are, to be frozen, to have learning rates, and to take embeddings from."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

# Paths of the list of layers in transformers' and similar models.
LAYER_PATHS = ("layers", "encoder.layers", "encoder.layer", "blocks", "encoder.blocks", "encoder.encoder.layer")


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


class EncoderLayers:
    """The part of an adapter that finds an encoder's layers and parameters.

    `encoder` is the given model, `base` the inner one, `layers` its layers up to the one that the embedding is of,
    which `cut` says is not the encoder's last output, and `layers_path` the path of their list.
    """

    encoder: PreTrainedModel
    base: PreTrainedModel
    layers: list[nn.Module]
    layers_path: str
    cut: bool

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
        if self.cut:  # what comes after the embedding's layer has no gradient
            last = len(self.layers) + 1
            fixed |= {id(self.encoder.get_parameter(name)) for name, depth in self.layer_ids().items() if depth == last}
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


__all__ = ["EncoderError", "EncoderLayers", "base_of"]
