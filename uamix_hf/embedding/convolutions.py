"""From samples to tokens: the convolutions before and after the layers of an encoder of waveforms."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .layers import EncoderError

# Kernel and stride of a convolution without padding.
Convolution = tuple[int, int]


@dataclass
class Convolutions:
    """How many tokens come of a number of samples.

    Args:
        front: Kernels and strides of the convolutional front.
        pooling: What SEW pools its tokens by before the layers; its last output has as many as before.
        adapter: Convolutions after the layers, in models with an adapter of the length.
    """

    front: list[Convolution]
    pooling: list[Convolution]
    adapter: list[Convolution]

    @classmethod
    def of(cls, config: Any) -> "Convolutions":
        """Reads them from an encoder's configuration.

        Raises:
            EncoderError: It has none.
        """
        if not takes_waveforms(config):
            raise EncoderError(
                f"The configuration of model_type {getattr(config, 'model_type', None)!r} has no conv_kernel and "
                "conv_stride: is its input a waveform?"
            )
        squeeze = getattr(config, "squeeze_factor", 1)
        layers = config.num_adapter_layers if getattr(config, "add_adapter", False) else 0
        return cls(
            list(zip(config.conv_kernel, config.conv_stride, strict=True)),
            [(squeeze, squeeze)] if squeeze > 1 else [],
            # They pad by one sample on both sides.
            [(config.adapter_kernel_size - 2, config.adapter_stride)] * layers if layers else [],
        )

    @property
    def frame_samples(self) -> int:
        """Samples of a frame: half of those from token to token, which is 10 ms in most models."""
        stride = math.prod(stride for _, stride in self.front)
        return stride // 2 if stride % 2 == 0 else stride

    @property
    def frames(self) -> tuple[int, int]:
        """Frames from which a token of the layers is computed, rounded up, and frames from token to token."""
        size, stride = 1, 1
        for kernel, step in [*self.front, *self.pooling]:
            size += (kernel - 1) * stride
            stride *= step
        return -(-size // self.frame_samples), stride // self.frame_samples

    def tokens(self, samples: torch.Tensor, inside: bool) -> torch.Tensor:
        """Number of tokens, of any shape, that come of a number of samples.

        Args:
            samples: Numbers of samples.
            inside: Whether those of a layer are counted, not those of the last output.
        """
        for kernel, stride in [*self.front, *(self.pooling if inside else self.adapter)]:
            samples = (samples - kernel) // stride + 1
        return samples

    def centres(self, inside: bool) -> tuple[float, int]:
        """Centre of the samples from which the first token is computed, and samples from token to token.

        Args:
            inside: Whether the tokens are those of a layer, not those of the last output.
        """
        centre, stride = 0.5, 1  # sample i lasts from i to i + 1
        for kernel, step in [*self.front, *(self.pooling if inside else self.adapter)]:
            centre += (kernel - 1) / 2 * stride  # padding on both sides does not move it
            stride *= step
        return centre, stride


def takes_waveforms(config: Any) -> bool:
    """Whether a configuration is that of an encoder whose first layers are convolutions of a waveform."""
    return all(isinstance(getattr(config, name, None), (list, tuple)) for name in ("conv_kernel", "conv_stride"))


def keeps_clips_apart(encoder: PreTrainedModel, layers_path: str) -> bool:
    """Whether no padding behind an attention mask reaches the tokens of audio.

    It does where something but attention mixes tokens: a norm over time, a convolution of tokens that were not set to
    zero, or one whose tokens do not end where the clip does.

    Args:
        encoder: An encoder of waveforms.
        layers_path: Path of its list of layers.
    """
    config: Any = encoder.config
    if getattr(config, "feat_extract_norm", None) != "layer" or getattr(config, "add_adapter", False):
        return False
    if "attention_mask" not in inspect.signature(encoder.forward).parameters:
        return False
    mixing = (nn.Conv1d, nn.BatchNorm1d, nn.GroupNorm)
    # transformers sets tokens of padding to zero before the positional convolution.
    positional = getattr(encoder.get_submodule(layers_path.rpartition(".")[0]), "pos_conv_embed", nn.Module())
    first = [module for module in positional.modules() if isinstance(module, mixing)]
    if len(first) != 1 or not isinstance(first[0], nn.Conv1d) or first[0].stride != (1,):
        return False
    return not any(isinstance(module, mixing) for module in encoder.get_submodule(layers_path).modules())


__all__ = ["Convolutions", "keeps_clips_apart", "takes_waveforms"]
