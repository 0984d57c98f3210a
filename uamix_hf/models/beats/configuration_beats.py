"""Configuration of BEATs (Chen et al., ICML 2023) and OpenBEATs (Bharadwaj et al., 2025)."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Keywords that transformers passes to every configuration besides its fields.
INHERITED_FIELDS = {
    "attn_implementation", "auto_map", "experts_implementation", "model_type", "name_or_path", "num_labels",
    "output_attentions", "quantization_config", "torch_dtype", "use_cache", "_name_or_path",
}  # fmt: skip


@strict
class BeatsConfig(PreTrainedConfig):
    r"""Configuration of [`BeatsModel`] and [`BeatsForAudioClassification`].

    The defaults are the released BEATs base models. Field names are those of transformers' AST and WavLM
    configurations.

    Args:
        hidden_size: Size of the token embeddings in the transformer layers.
        num_hidden_layers: Number of transformer layers.
        num_attention_heads: Attention heads per layer.
        intermediate_size: Hidden size of the feed-forward networks.
        hidden_act: Activation of the feed-forward networks.
        hidden_dropout_prob: Dropout of the encoder's input and of each sublayer's output.
        attention_probs_dropout_prob: Dropout of the attention weights.
        activation_dropout: Dropout after the activation of the feed-forward networks.
        initializer_range: Standard deviation of newly initialised embeddings and classification heads.
        layer_norm_eps: Epsilon of every layer normalisation.
        num_mel_bins: Mel bins of the input.
        max_length: Window length in frames (10 ms each) for long recordings and training views. The model has no
            absolute positions and also takes longer input.
        patch_size: Side of a square patch in frames and mel bins; patches do not overlap.
        patch_embedding_size: Size of the patch embeddings before they are projected to `hidden_size`. There is no
            projection where both are equal.
        num_conv_pos_embeddings: Kernel size in tokens of the convolutional position embedding.
        num_conv_pos_embedding_groups: Groups of that convolution.
        num_buckets: Buckets of relative positions, half of them for each direction.
        max_bucket_distance: Distance in tokens from which on all relative positions share the last bucket.
        deep_norm: Whether residual connections are scaled by `(2 * num_hidden_layers) ** 0.25` (Wang et al.,
            "DeepNet", 2022).
        token_padding: Which tokens of a padded clip are padding. `"all"` (BEATs) divides the frames evenly among the
            flattened token sequence, whatever the frequency band of a token, and masks a token if all of its frames
            are padding. `"any"` (OpenBEATs) masks a token if any frame of its patch is padding.
        pooling: How `pooler_output` is computed: `"mean"` averages the tokens that are not padding; `"mean_std"` adds
            their standard deviation.

    ```python
    >>> from uamix_hf import BeatsConfig, BeatsModel

    >>> model = BeatsModel(BeatsConfig(num_hidden_layers=2))
    ```
    """

    model_type = "beats"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    activation_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-5
    num_mel_bins: int = 128
    max_length: int = 1024
    patch_size: int = 16
    patch_embedding_size: int = 512
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    deep_norm: bool = True
    token_padding: Literal["all", "any"] = "all"
    pooling: Literal["mean", "mean_std"] = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers keeps unknown keywords as attributes: a misspelt field would silently keep its default.
        if unknown := kwargs.keys() - INHERITED_FIELDS:
            logger.warning(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}: kept, without effect.")
        super().__post_init__(**kwargs)

    @property
    def num_mel_patches(self) -> int:
        """Tokens per time step, one for each band of `patch_size` mel bins."""
        return self.num_mel_bins // self.patch_size

    @property
    def embedding_size(self) -> int:
        """Size of `pooler_output`."""
        return self.hidden_size * (2 if self.pooling == "mean_std" else 1)

    @property
    def residual_scale(self) -> float:
        """Factor of the residual connections."""
        return (2 * self.num_hidden_layers) ** 0.25 if self.deep_norm else 1.0

    @property
    def residual_gain(self) -> float:
        """Gain of the initialisation of the layers within the residual branches, which goes with `residual_scale`."""
        return (8 * self.num_hidden_layers) ** -0.25 if self.deep_norm else 1.0

    def validate_geometry(self) -> None:
        """Refuses sizes that do not divide, which would drop mel bins or channels."""
        for name, size, by, divisor in (
            ("max_length", self.max_length, "patch_size", self.patch_size),
            ("num_mel_bins", self.num_mel_bins, "patch_size", self.patch_size),
            ("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads),
            (
                "hidden_size",
                self.hidden_size,
                "num_conv_pos_embedding_groups",
                self.num_conv_pos_embedding_groups,
            ),
            ("num_buckets", self.num_buckets, "4 (directions, exact and logarithmic)", 4),
        ):
            if divisor < 1 or size < 1 or size % divisor:
                raise ValueError(f"{name}={size} is not a positive multiple of {by}={divisor}.")
        if self.token_padding == "all" and self.patch_size % self.num_mel_patches:
            raise ValueError(
                f'token_padding="all" divides the {self.patch_size} frames of a patch evenly among '
                f"{self.num_mel_patches} tokens, which is not possible: use another patch_size or num_mel_bins."
            )
        if self.max_bucket_distance <= self.num_buckets // 4:
            raise ValueError(
                f"max_bucket_distance={self.max_bucket_distance} must be larger than num_buckets / 4 = "
                f"{self.num_buckets // 4}: smaller distances have buckets of their own."
            )


__all__ = ["BeatsConfig"]
