"""Configuration of Audio-MAE (Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022)."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Hidden size, layers and heads of the encoder, then of the decoder. Heads of 64 and 32 dimensions as in Audio-MAE.
PRESETS: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (192, 12, 3, 128, 2, 4),
    "small": (384, 12, 6, 256, 4, 8),
    "base": (768, 12, 12, 512, 8, 16),
    "large": (1024, 24, 16, 512, 8, 16),
}
# Keywords that transformers passes to every configuration besides its fields.
INHERITED_FIELDS = {
    "attn_implementation", "auto_map", "experts_implementation", "model_type", "name_or_path", "num_labels",
    "output_attentions", "quantization_config", "torch_dtype", "use_cache", "_name_or_path",
}  # fmt: skip


@strict
class AudioMAEConfig(PreTrainedConfig):
    r"""Configuration of [`AudioMAEModel`], [`AudioMAEForPreTraining`] and [`AudioMAEForAudioClassification`].

    The defaults are the released Audio-MAE ViT-B (arXiv 2207.06405) with a decoder of global attention. Field names are
    those of transformers' AST and ViTMAE configurations.

    Args:
        hidden_size: Hidden size of the encoder.
        num_hidden_layers: Layers of the encoder.
        num_attention_heads: Attention heads of each encoder layer.
        intermediate_size: Hidden size of the MLP of each encoder layer.
        hidden_act: Activation of the MLPs.
        hidden_dropout_prob: Dropout after the embeddings and in each residual branch; 0 in Audio-MAE.
        attention_probs_dropout_prob: Dropout of the attention weights; 0 in Audio-MAE.
        drop_path_rate: Probability that a clip skips a residual branch of the last encoder layer during training; it
            falls linearly to 0 at the first layer (stochastic depth). Audio-MAE fine-tunes with 0.1.
        initializer_range: Standard deviation of the class and mask tokens; linear layers are Xavier-uniform.
        classifier_initializer_range: Standard deviation of a new classification head (truncated normal).
        classifier_layer_norm_eps: Epsilon of a LayerNorm before the classification head, as in SSAST and PaSST; no such
            LayerNorm if None.
        layer_norm_eps: Epsilon of every other LayerNorm. 1e-6 in Audio-MAE; the library's usual 1e-12 changes the
            features.
        qkv_bias: Whether the query, key and value projections have a bias.
        num_mel_bins: Mel bins of the input.
        max_length: Longest input in frames (10 ms each), which is the length of the position table.
        patch_size: Side of a square patch in frames and mel bins.
        patch_mel_bins: Mel bins of a patch that is not square; `patch_size` if None.
        time_stride: Frames from patch to patch, if patches overlap; `patch_size` if None.
        mel_stride: Mel bins from patch to patch, if patches overlap; the mel bins of a patch if None. Mel bins after
            the last whole patch are then ignored.
        num_prefix_tokens: Tokens before the patch tokens: the class token, and the distillation token where it is 2.
        pooling: How `pooler_output` is made. `"mean"`: mean of the normalised patch tokens. `"cls"`: the normalised
            class token. `"mean_prefix"`: mean of the normalised prefix tokens. `"mean_fc_norm"`: LayerNorm of the mean
            of un-normalised patch tokens (fine-tuned Audio-MAE). `"mean_two_norms"`: the same, while the tokens of
            `last_hidden_state` are normalised by another LayerNorm (Bird-MAE).
            `"mean_time"`: mean over time of each frequency band's normalised tokens, bands concatenated, as in M2D;
            the embedding keeps the frequency and has as many times the dimensions as there are bands. Tokens are
            weighted by their frames of audio; with `"mean_time_tokens"` all have the same weight, as in MATPAC.
            `"mean_std"` and `"mean_std_time"`: those means, all of them, followed by the standard deviations.
            `"std_time"`: the standard deviations of each band alone, which of a clip of one token in time are 0.
            `"attention"` and `"attention_time"`: means with learnt weights of the tokens, other ones for the channels
            of each head; before training they are `"mean"` and `"mean_time"`.
        whitening_size: Output dimensions of the fixed affine map after the pooling, which `uamix_hf.fit_whitening` fits
            to unlabelled audio; 0 for no such map.
        position_layout: Grid on which the sin-cos table is laid out. `"audiomae"`: (mel, time), as in the released
            code, although tokens are time-major; released weights need it. `"time_freq"`: the geometric one, for new
            pretraining only.
        decoder_type: `"global"`: plain transformer layers. `"local"`: Swin-V2 window layers, as in the released
            pretrained checkpoint, which has 16 of them.
        decoder_hidden_size: Hidden size of the decoder.
        decoder_num_hidden_layers: Layers of the decoder.
        decoder_num_attention_heads: Attention heads of each decoder layer.
        decoder_intermediate_size: Hidden size of the MLP of each decoder layer.
        decoder_window_size: Side of the local decoder's windows in tokens; every second layer shifts them by half of it
            along time.
        decoder_bias_hidden_size: Hidden size of the local decoder's relative position bias network.
        decoder_bias_dropout_prob: Dropout of that network.
        mask_type: How [`AudioMAEForPreTraining`] masks; the other classes never read it. `"unstructured"`: any tokens,
            a fraction of `mask_ratio`. `"time_frequency"`: whole time columns and whole frequency bands.
        mask_ratio: Fraction of the tokens that unstructured masking removes.
        mask_time_ratio: Fraction of the time columns that time-frequency masking removes.
        mask_mel_ratio: Fraction of the frequency bands that time-frequency masking removes. With both defaults a fifth
            of the tokens stays visible, as with `mask_ratio` of 0.8.
        norm_pix_loss: Whether each target patch is standardised before the squared error.
        contrastive_weight: Weight of the InfoNCE loss that is added to the squared error: a second prediction
            identifies each removed patch among the removed patches of its clip by the dot product. 0 leaves it out; 0.1
            is the joint objective of MAE-AST (Baade et al. 2022), whose weights are 10 and 1.
        patchout_ratio: Fraction of the tokens that [`AudioMAEForAudioClassification`] drops during training, after
            columns and bands: PaSST's unstructured patchout.
        patchout_time_ratio: Fraction of the time columns that it drops (structured patchout); 0.2 in Audio-MAE.
        patchout_mel_ratio: Fraction of the frequency bands that it drops; 0.2 in Audio-MAE.

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
    classifier_layer_norm_eps: float | int | None = None
    layer_norm_eps: float | int = 1e-6
    qkv_bias: bool = True
    num_mel_bins: int = 128
    max_length: int = 1024
    patch_size: int = 16
    patch_mel_bins: int | None = None
    time_stride: int | None = None
    mel_stride: int | None = None
    num_prefix_tokens: int = 1
    pooling: Literal[
        "mean", "cls", "mean_prefix", "mean_fc_norm", "mean_two_norms", "mean_time", "mean_time_tokens",
        "mean_std", "mean_std_time", "std_time", "attention", "attention_time"
    ] = "mean"  # fmt: skip
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
        # transformers keeps unknown keywords as attributes: a misspelt field would silently leave its default in place.
        if unknown := kwargs.keys() - INHERITED_FIELDS:
            logger.warning(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}: kept, without effect.")
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "AudioMAEConfig":
        """Configuration of a named size.

        Args:
            name: `"tiny"`, `"small"`, `"base"` or `"large"`.
            **overrides: Fields to override.

        Raises:
            ValueError: No preset of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"No preset {name!r}; there are {', '.join(PRESETS)}.")
        width, layers, heads, decoder_width, decoder_layers, decoder_heads = PRESETS[name]
        fields = {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "decoder_hidden_size": decoder_width,
            "decoder_num_hidden_layers": decoder_layers,
            "decoder_num_attention_heads": decoder_heads,
            "decoder_intermediate_size": 4 * decoder_width,
        }
        return cls(**{**fields, **overrides})

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Size of a patch: (frames, mel bins)."""
        return self.patch_size, self.patch_size if self.patch_mel_bins is None else self.patch_mel_bins

    @property
    def strides(self) -> tuple[int, int]:
        """Distance from patch to patch: (frames, mel bins)."""
        time, mel = self.patch_shape
        return (
            time if self.time_stride is None else self.time_stride,
            mel if self.mel_stride is None else self.mel_stride,
        )

    @property
    def grid_size(self) -> tuple[int, int]:
        """Token grid of an input of `max_length` frames: (time, mel)."""
        sizes = zip((self.max_length, self.num_mel_bins), self.patch_shape, self.strides, strict=True)
        time, mel = ((size - patch) // stride + 1 for size, patch, stride in sizes)
        return time, mel

    @property
    def pools_bands(self) -> bool:
        """Whether the tokens of each frequency band are pooled by themselves."""
        return self.pooling in ("mean_time", "mean_time_tokens", "mean_std_time", "std_time", "attention_time")

    @property
    def pooled_size(self) -> int:
        """Dimensions of the pooled tokens, before whitening."""
        statistics = 2 if self.pooling in ("mean_std", "mean_std_time") else 1
        return self.hidden_size * statistics * (self.grid_size[1] if self.pools_bands else 1)

    @property
    def embedding_size(self) -> int:
        """Dimensions of `pooler_output`."""
        return self.whitening_size or self.pooled_size

    def _check_patches(self) -> None:
        """Raises ValueError if patches do not fit into the input, or skip a part of it."""
        axes = (
            ("max_length", self.max_length, "patch_size", self.patch_size, "time_stride", self.time_stride),
            ("num_mel_bins", self.num_mel_bins, "patch_mel_bins", self.patch_shape[1], "mel_stride", self.mel_stride),
        )
        for name, size, patch_name, patch, stride_name, stride in axes:
            if patch < 1 or (stride is None and size % patch):
                raise ValueError(f"{name}={size} is not a multiple of {patch_name}={patch}.")
            if stride is not None and not 1 <= stride <= patch <= size:
                raise ValueError(
                    f"{stride_name}={stride}, {patch_name}={patch}, {name}={size}: expected an ascending order from 1, "
                    "or parts of the input are skipped."
                )
        if (self.max_length - self.patch_size) % self.strides[0]:
            raise ValueError(
                f"max_length={self.max_length} is not patch_size={self.patch_size} plus a multiple of "
                f"time_stride={self.time_stride}."
            )
        if self.num_prefix_tokens < 1:
            raise ValueError(f"num_prefix_tokens={self.num_prefix_tokens}: there is at least the class token.")

    def validate_geometry(self) -> None:
        """Checks sizes and ratios. Sizes that do not divide would silently drop frames, mel bins or channels.

        Raises:
            ValueError: A size that does not divide, or a value out of range.
        """
        self._check_patches()
        for name, size, by, divisor in (
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
                f"decoder_window_size={self.decoder_window_size} does not divide the {self.grid_size[1]} "
                'frequency bands of tokens; use another window or decoder_type="global".'
            )
        if not 0 <= self.whitening_size <= self.pooled_size:
            raise ValueError(
                f"whitening_size={self.whitening_size} is not between 0 and the pooled size, {self.pooled_size}."
            )
        ratios = ("mask_ratio", "mask_time_ratio", "mask_mel_ratio", "drop_path_rate")
        for name in (*ratios, "patchout_ratio", "patchout_time_ratio", "patchout_mel_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is outside [0, 1).")
        if self.contrastive_weight < 0:
            raise ValueError(f"contrastive_weight={self.contrastive_weight} is negative.")


__all__ = ["AudioMAEConfig"]
