"""Configuration of the uaMix method."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

# Fields that have no effect with mix="none".
MIXING_FIELDS = (
    "mix_alpha", "mix_probability", "mix_per_sample", "mix_dominant", "mix_align", "mix_position", "pairing",
    "symmetric_mix", "mix_weight",
)  # fmt: skip
MIXES = ("t-cutmix", "cutmix", "mixup", "none")


@strict
class UaMixConfig(PreTrainedConfig):
    """Configuration of [`UaMixForContrastiveTuning`]: all hyper-parameters of the method, saved with the weights.

    The paper does not publish its own; these are the project's choices (docs/concepts/method.md, Schedule and
    hyper-parameters).

    Args:
        encoder_config: Configuration of the encoder that is tuned.
        layers_path: Where the encoder keeps its list of layers, such as `"encoder.layers"`; found by name if None.
        embedding_layer: Layer of the encoder whose pooled output is tuned, from 1 on; None for its last output.
        embedding_pooling: How the encoder's tokens are pooled; None for the encoder's own way.
        max_length: Longest view in frames, the feature extractor's `max_length`; None for what the encoder takes.
        input_mean: Mean of the raw log-mels; views are cut from raw log-mels and normalised afterwards. None:
            AudioSet's, or 0 for waveforms, which are not normalised here.
        input_std: Standard deviation of the raw log-mels. None: AudioSet's, or 1 for waveforms.
        input_std_factor: Log-mels are divided by this many standard deviations. None: 2, or 1 for waveforms.
        min_crop: Smallest fraction of a clip that the random crop in time keeps; 1 turns cropping off.
        min_view_frames: Crops are not shorter than this many frames (10 ms); clips that are shorter are not cropped.
        resize_time: Largest factor by which a view is stretched or squeezed in time; 1 turns it off. Waveforms are
            resampled, which changes their pitch as well.
        resize_mel: Largest factor by which a view is stretched or squeezed in frequency; 1 turns it off. None: 1.15, or
            1 for waveforms, which take no other value.
        background: Largest fraction of a view's power that comes from another clip of the batch, mixed in as
            background; 0 turns it off.
        gain_alpha: A view's gain is drawn from Beta(gain_alpha, gain_alpha) + 0.5; 0 turns it off.
        equalizer_db: Range in dB, up and down, of the random smooth filter that is applied to a view; 0 turns it off.
        noise_snr: Lowest signal-to-noise ratio in dB of the stationary noise with a random spectrum that is added to a
            view; the highest is 30 dB above it. None adds no noise.
        token_drop: Fraction of the tokens of a view that are dropped, where the encoder can drop tokens. None lets
            training choose: 0 for less than an hour of audio (docs/experiments.md), 0.5 for more, which halves the
            time; and 0 where the encoder cannot drop tokens, which takes no other value.
        mix: `"t-cutmix"` pastes a segment of another clip over all frequencies, `"cutmix"` a box in time and
            frequency (of log-mels only), `"mixup"` interpolates the log-mels or waveforms, `"none"` trains without
            mixtures.
        mix_alpha: The fraction lambda of a mixture that is the clip itself is drawn from Beta(mix_alpha, mix_alpha).
        mix_probability: Probability that a clip is mixed.
        mix_per_sample: Whether each clip draws its own lambda, instead of one for the batch.
        mix_dominant: Whether lambda is mirrored to at least 0.5, so that the clip itself dominates its mixture.
        mix_align: Cuts fall on multiples of this many frames (10 ms) and, with `"cutmix"`, frequency bins. At a
            multiple of the patch size each token is of one clip alone: 16 is one token of Audio-MAE, 8 of Whisper and
            wav2vec 2.0.
        mix_position: Where the pasted segment lies: `"segment"`, anywhere with equal probability; `"prefix"`, at the
            end, behind the clip's own start; `"center_clip"`, around a random centre and clipped at the edges, as in
            CutMix, which favours large lambdas.
        pairing: `"random"` partners, never the clip itself, or the `"reverse"` order of the batch.
        symmetric_mix: Whether view b is mixed too, with keys from view a.
        mix_weight: Weight of the loss on mixtures beside the loss on clean views.
        decorrelation_weight: Weight of the loss that spreads the variance of embeddings over directions, as whitening
            does (docs/concepts/method.md, Decorrelation); 0 turns it off.
        projector_hidden_size: Hidden size of the projector.
        projection_size: Dimensions of the projected embeddings, which are compared.
        predictor_hidden_size: Hidden size of the predictor.
        queue_size: Keys in the neighbour queue. Training shrinks it to the number of clips. With 0 there is no queue:
            the positive of a clip is its own other view.
        topk: The positive is drawn from this many nearest neighbours in the queue.
        temperature: Temperature that divides the similarities.
        ema_momentum: Momentum of the target projector, an exponential moving average updated each optimiser step.
    """

    model_type = "uamix"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: dict | PreTrainedConfig | None = None
    layers_path: str | None = None
    embedding_layer: int | None = None
    embedding_pooling: str | None = None
    max_length: int | None = None
    input_mean: float | int | None = None
    input_std: float | int | None = None
    input_std_factor: float | int | None = None
    min_crop: float | int = 0.3
    min_view_frames: int = 96
    resize_time: float | int = 1.25
    resize_mel: float | int | None = None
    background: float | int = 0.0
    gain_alpha: float | int = 10.0
    equalizer_db: float | int = 6.0
    noise_snr: float | int | None = None
    token_drop: float | int | None = None
    mix: Literal["t-cutmix", "cutmix", "mixup", "none"] = "t-cutmix"
    mix_alpha: float | int = 1.0
    mix_probability: float | int = 1.0
    mix_per_sample: bool = True
    mix_dominant: bool = True
    mix_align: int = 16
    mix_position: Literal["segment", "prefix", "center_clip"] = "segment"
    pairing: Literal["random", "reverse"] = "random"
    symmetric_mix: bool = False
    mix_weight: float | int = 1.0
    decorrelation_weight: float | int = 0.0
    projector_hidden_size: int = 2048
    projection_size: int = 256
    predictor_hidden_size: int = 4096
    queue_size: int = 65_536
    topk: int = 5
    temperature: float | int = 0.15
    ema_momentum: float | int = 0.99

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):
            values = dict(self.encoder_config)
            self.encoder_config = AutoConfig.for_model(values.pop("model_type"), **values)
        super().__post_init__(**kwargs)

    def validate_ranges(self) -> None:
        """Refuses values that would give NaN or a constant loss; called by `huggingface_hub`'s `strict`.

        Raises:
            ValueError: a value out of range.
        """
        for name, low, high in (
            ("max_length", 1, 1e9), ("input_std", 1e-6, 1e6), ("input_std_factor", 1e-6, 1e6), ("min_crop", 0.01, 1),
            ("min_view_frames", 0, 1e6), ("resize_time", 1, 10), ("resize_mel", 1, 10), ("background", 0, 0.99),
            ("gain_alpha", 0, 1e6), ("equalizer_db", 0, 60), ("noise_snr", -100, 100), ("token_drop", 0, 0.99),
            ("mix_alpha", 1e-3, 1e3), ("mix_probability", 0, 1), ("mix_align", 1, 1e4), ("mix_weight", 0, 1e6),
            ("decorrelation_weight", 0, 1e6),
            ("queue_size", 0, 1e9), ("topk", 1, 1e9), ("temperature", 1e-3, 1e3), ("ema_momentum", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value} is outside [{low:g}, {high:g}].")


# Fields that are chosen by hand: the others come from the encoder and its feature extractor.
METHOD_FIELDS = tuple(
    name
    for name in UaMixConfig.__annotations__
    if name not in ("encoder_config", "embedding_layer", "embedding_pooling", "max_length")
    and name not in ("input_mean", "input_std", "input_std_factor")
)

__all__ = ["METHOD_FIELDS", "MIXES", "UaMixConfig"]
