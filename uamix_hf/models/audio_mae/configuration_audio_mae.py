"""Configuration of Audio-MAE (Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022)."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# width, blocks, heads of the encoder; width, blocks, heads of the decoder. Head width 64 and 32 as in Audio-MAE.
PRESETS: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (192, 12, 3, 128, 2, 4),
    "small": (384, 12, 6, 256, 4, 8),
    "base": (768, 12, 12, 512, 8, 16),
    "large": (1024, 24, 16, 512, 8, 16),
}
# What transformers gives every configuration beside its fields.
OF_TRANSFORMERS = {
    "attn_implementation", "auto_map", "experts_implementation", "model_type", "name_or_path", "num_labels",
    "output_attentions", "quantization_config", "torch_dtype", "use_cache", "_name_or_path",
}  # fmt: skip


@strict
class AudioMAEConfig(PreTrainedConfig):
    r"""
    Configuration of [`AudioMAEModel`], [`AudioMAEForPreTraining`] and [`AudioMAEForAudioClassification`]. The defaults
    are the released Audio-MAE ViT-B with a decoder of global attention (method.md 1.2-1.6); field names are those of
    transformers' AST and ViTMAE configurations.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, layer_norm_eps, qkv_bias:
            The transformer encoder. `layer_norm_eps` is 1e-6: the library's usual 1e-12 changes the features.
        hidden_dropout_prob, attention_probs_dropout_prob: Dropout, 0 in Audio-MAE.
        drop_path_rate: Probability that a clip skips a residual branch of the encoder's last block while training, and
            linearly less down to 0 of the first (stochastic depth); Audio-MAE fine-tunes with 0.1.
        initializer_range: Standard deviation of the class and mask tokens; linear layers are Xavier-uniform.
        classifier_initializer_range: Standard deviation of a fresh classification head (truncated normal).
        num_mel_bins: Mel bins of the input.
        max_length: Longest input in frames (10 ms each), which is the length of the position table.
        patch_size: Side of a square patch in frames and mel bins; patches do not overlap.
        pooling: What `pooler_output` is: `"mean"` of the normed patch tokens, the normed class token `"cls"`, or
            `"mean_fc_norm"`, a LayerNorm of the mean of un-normed tokens (layout of fine-tuned Audio-MAE), or
            `"mean_time"`, the mean over time of each mel row of normed tokens, rows side by side, as M2D and MATPAC do:
            which pitches sound is kept, and the embedding is as many times wider as there are rows.
        whitening_size: Width of the fixed affine map that follows the pooling and that `uamix_hf.fit_whitening` fits to
            unlabelled sound; 0 is none.
        position_layout: Grid the sin-cos table is laid out on. `"audiomae"` is the released code's (mel, time) grid
            although tokens run time-major, so it must be kept for its weights (method.md 1.2); `"time_freq"` is the
            geometric one, for new pretraining only.
        decoder_type: `"global"`, plain transformer blocks, or `"local"`, Swin-V2 window blocks as in the released
            pretrained checkpoint (which has 16 of them).
        decoder_window_size: Side of the local decoder's windows in tokens; every odd block shifts them by half of it
            along time.
        decoder_bias_hidden_size, decoder_bias_dropout_prob: The local decoder's network of relative positions.
        mask_type: Which tokens [`AudioMAEForPreTraining`] removes; the other classes never read it. `"unstructured"` is
            any, `mask_ratio` of them; `"time_frequency"` is whole columns of time and whole mel rows (method.md 1.4).
        mask_ratio: Share of the tokens that unstructured masking removes.
        mask_time_ratio, mask_mel_ratio: Shares of the time columns and of the mel rows that 2-D masking removes. What
            is in neither stays: by default a fifth of the tokens, as many as with `mask_ratio` of 0.8.
        norm_pix_loss: Whether each target patch is standardised before the squared error.
        contrastive_weight: Weight, beside the squared error's of 1, of telling each removed patch from the other
            removed ones of its clip by the dot product with a second prediction (InfoNCE). 0 leaves it out; 0.1 is the
            joint objective of MAE-AST (Baade et al. 2022), whose weights are 10 and 1.
        patchout_ratio, patchout_time_ratio, patchout_mel_ratio: Shares of the tokens, time columns and mel rows that
            [`AudioMAEForAudioClassification`] leaves out while it is trained, columns and rows first: PaSST's
            unstructured and structured patchout. Audio-MAE fine-tunes with columns and rows of 0.2 each.

    ```python
    >>> from uamix_hf import AudioMAEConfig, AudioMAEModel

    >>> model = AudioMAEModel(AudioMAEConfig.preset("tiny"))
    ```
    """

    model_type = "audio_mae"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float | int = 0.02
    classifier_initializer_range: float | int = 2e-5
    layer_norm_eps: float | int = 1e-6
    qkv_bias: bool = True
    num_mel_bins: int = 128
    max_length: int = 1024
    patch_size: int = 16
    pooling: Literal["mean", "cls", "mean_fc_norm", "mean_time"] = "mean"
    whitening_size: int = 0
    position_layout: Literal["audiomae", "time_freq"] = "audiomae"
    decoder_type: Literal["global", "local"] = "global"
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    decoder_window_size: int = 4
    decoder_bias_hidden_size: int = 384
    decoder_bias_dropout_prob: float | int = 0.1
    mask_type: Literal["unstructured", "time_frequency"] = "unstructured"
    mask_ratio: float | int = 0.8
    mask_time_ratio: float | int = 0.6
    mask_mel_ratio: float | int = 0.5
    norm_pix_loss: bool = True
    contrastive_weight: float | int = 0.0
    patchout_ratio: float | int = 0.0
    patchout_time_ratio: float | int = 0.0
    patchout_mel_ratio: float | int = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers keeps them as attributes: a misspelt field would leave its default in place without a word.
        if unknown := kwargs.keys() - OF_TRANSFORMERS:
            logger.warning(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}: kept, without effect.")
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "AudioMAEConfig":
        """The configuration of a named size: `"tiny"`, `"small"`, `"base"` or `"large"`; keywords override fields.

        Raises:
            ValueError: if there is no preset of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"No preset {name!r}; there are {', '.join(PRESETS)}.")
        width, blocks, heads, decoder_width, decoder_blocks, decoder_heads = PRESETS[name]
        fields = {
            "hidden_size": width,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "decoder_hidden_size": decoder_width,
            "decoder_num_hidden_layers": decoder_blocks,
            "decoder_num_attention_heads": decoder_heads,
            "decoder_intermediate_size": 4 * decoder_width,
        }
        return cls(**{**fields, **overrides})

    @property
    def grid_size(self) -> tuple[int, int]:
        """Token grid of an input of `max_length` frames: (time, mel)."""
        return self.max_length // self.patch_size, self.num_mel_bins // self.patch_size

    @property
    def pooled_size(self) -> int:
        """Width of what is pooled from the tokens."""
        return self.hidden_size * (self.grid_size[1] if self.pooling == "mean_time" else 1)

    @property
    def embedding_size(self) -> int:
        """Width of `pooler_output`."""
        return self.whitening_size or self.pooled_size

    def validate_geometry(self) -> None:
        """Sizes that do not divide would drop frames, mel bins or channels in silence."""
        for name, size, by, divisor in (
            ("max_length", self.max_length, "patch_size", self.patch_size),
            ("num_mel_bins", self.num_mel_bins, "patch_size", self.patch_size),
            ("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads),
            ("hidden_size", self.hidden_size, "4 (sin-cos positions)", 4),
            (
                "decoder_hidden_size",
                self.decoder_hidden_size,
                "decoder_num_attention_heads",
                self.decoder_num_attention_heads,
            ),
            ("decoder_hidden_size", self.decoder_hidden_size, "4 (sin-cos positions)", 4),
        ):
            if divisor < 1 or size % divisor:
                raise ValueError(f"{name}={size} is not a multiple of {by}={divisor}.")
        if self.decoder_type == "local" and self.grid_size[1] % self.decoder_window_size:
            raise ValueError(
                f"decoder_window_size={self.decoder_window_size} does not divide the {self.grid_size[1]} mel rows of "
                'tokens; use another window or decoder_type="global".'
            )
        if not 0 <= self.whitening_size <= self.pooled_size:
            raise ValueError(f"whitening_size={self.whitening_size} is not within 0 and {self.pooled_size}, as pooled.")
        shares = ("mask_ratio", "mask_time_ratio", "mask_mel_ratio", "drop_path_rate")
        for name in (*shares, "patchout_ratio", "patchout_time_ratio", "patchout_mel_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is outside [0, 1).")
        if self.contrastive_weight < 0:
            raise ValueError(f"contrastive_weight={self.contrastive_weight} is negative.")


__all__ = ["AudioMAEConfig"]
