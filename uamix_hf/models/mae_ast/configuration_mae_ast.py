"""Configuration of MAE-AST (Baade et al., "Masked Autoencoding Audio Spectrogram Transformer", Interspeech 2022)."""

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
class MAEASTConfig(PreTrainedConfig):
    r"""Configuration of [`MAEASTModel`].

    The defaults are the released 12-layer patch model; the frame model has `patch_size=2` and `patch_mel_bins=128`.
    Field names are those of [`AudioMAEConfig`].

    Args:
        hidden_size: Hidden size of the encoder; even, because half of the channels of a position are sines.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of attention heads.
        intermediate_size: Hidden size of the feed-forward networks.
        hidden_act: Activation of the feed-forward networks.
        hidden_dropout_prob: Dropout after the embeddings and after both parts of a layer.
        attention_probs_dropout_prob: Dropout of the attention weights.
        initializer_range: Standard deviation of freshly initialised linear layers.
        layer_norm_eps: Epsilon of the layer norms.
        num_mel_bins: Mel bins of the input.
        max_length: Longest input in frames of 10 ms. MAE-AST's sinusoidal positions have no end of their own: a larger
            value extends the table.
        patch_size: Frames of a token.
        patch_mel_bins: Mel bins of a token.
        pooling: `pooler_output`. `"mean"` is the mean of the last layer's tokens, MAE-AST's own way; `"mean_std"` adds
            their standard deviation.

    ```python
    >>> from uamix_hf import MAEASTConfig, MAEASTModel

    >>> model = MAEASTModel(MAEASTConfig(patch_size=2, patch_mel_bins=128))
    ```
    """

    model_type = "mae_ast"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-5
    num_mel_bins: int = 128
    max_length: int = 1024
    patch_size: int = 16
    patch_mel_bins: int = 16
    pooling: Literal["mean", "mean_std"] = "mean"

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
    def embedding_size(self) -> int:
        """Size of `pooler_output`."""
        return self.hidden_size * (2 if self.pooling == "mean_std" else 1)

    def validate_geometry(self) -> None:
        """Refuses sizes that do not divide, which would silently drop frames, mel bins or channels."""
        for name, by in (
            ("max_length", "patch_size"),
            ("num_mel_bins", "patch_mel_bins"),
            ("hidden_size", "num_attention_heads"),
        ):
            size, divisor = getattr(self, name), getattr(self, by)
            if divisor < 1 or size % divisor:
                raise ValueError(f"{name}={size} is not a multiple of {by}={divisor}.")
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of 2 (sinusoidal positions).")


__all__ = ["MAEASTConfig"]
