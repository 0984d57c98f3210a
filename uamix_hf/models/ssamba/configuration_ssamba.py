"""Configuration of SSAMBA (Shams et al. 2024, arXiv 2405.11831)."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Attributes that transformers sets on every configuration besides its fields.
OF_TRANSFORMERS = {
    "attn_implementation", "auto_map", "experts_implementation", "model_type", "name_or_path", "num_labels",
    "output_attentions", "quantization_config", "torch_dtype", "use_cache", "_name_or_path",
}  # fmt: skip


@strict
class SSAMBAConfig(PreTrainedConfig):
    r"""Configuration of [`SSAMBAModel`].

    The defaults are the released base model. Field names are those of [`AudioMAEConfig`] and of transformers' Mamba.

    Args:
        hidden_size: Hidden size of the encoder: 192 (tiny), 384 (small) or 768 (base).
        num_hidden_layers: Number of layers. A layer is a pair of Mamba blocks, one of which reads the tokens reversed,
            so it is half of SSAMBA's `depth` of 24.
        state_size: State size of the scan, per channel.
        conv_kernel: Kernel size of the causal convolution.
        expand: Hidden size of a Mamba block in multiples of `hidden_size`.
        time_step_rank: Rank of the projection to time steps, 1/16 of `hidden_size` in SSAMBA.
        initializer_range: Standard deviation of freshly initialised linear layers, class token and positions.
        layer_norm_eps: Epsilon of the layer norms.
        num_mel_bins: Mel bins of the input.
        max_length: Longest input in frames of 10 ms, which is the length of the learned position table.
        patch_size: Frames of a token.
        patch_mel_bins: Mel bins of a token.
        pooling: `pooler_output`: `"mean"` of the patch tokens, SSAMBA's default for clips, the class token `"cls"`,
            or `"mean_std"`, that mean and the standard deviation of the patch tokens.

    ```python
    >>> from uamix_hf import SSAMBAConfig, SSAMBAModel

    >>> model = SSAMBAModel(SSAMBAConfig(hidden_size=192, time_step_rank=12))
    ```
    """

    model_type = "ssamba"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    time_step_rank: int = 48
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-5
    num_mel_bins: int = 128
    max_length: int = 1024
    patch_size: int = 16
    patch_mel_bins: int = 16
    pooling: Literal["mean", "cls", "mean_std"] = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers keeps unknown keywords as attributes: a misspelt field would silently leave its default in place.
        if unknown := kwargs.keys() - OF_TRANSFORMERS:
            logger.warning(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}: kept, without effect.")
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Token grid of an input of `max_length` frames: (time, mel)."""
        return self.max_length // self.patch_size, self.num_mel_bins // self.patch_mel_bins

    @property
    def intermediate_size(self) -> int:
        """Channels of the scan."""
        return self.expand * self.hidden_size

    @property
    def embedding_size(self) -> int:
        """Size of `pooler_output`."""
        return self.hidden_size * (2 if self.pooling == "mean_std" else 1)

    def validate_geometry(self) -> None:
        """Refuses sizes that do not divide, which would silently drop frames or mel bins."""
        for name, by in (("max_length", "patch_size"), ("num_mel_bins", "patch_mel_bins")):
            size, divisor = getattr(self, name), getattr(self, by)
            if divisor < 1 or size % divisor:
                raise ValueError(f"{name}={size} is not a multiple of {by}={divisor}.")


__all__ = ["SSAMBAConfig"]
