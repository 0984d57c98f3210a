"""Every number of the uaMix method, saved with the weights."""

from dataclasses import field, fields, make_dataclass
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

# Without effect where nothing is mixed.
MIXING_FIELDS = (
    "mix_alpha", "mix_probability", "mix_per_sample", "mix_dominant", "mix_align", "mix_position", "pairing",
    "symmetric_mix", "mix_weight",
)  # fmt: skip
MIXES = ("t-cutmix", "cutmix", "mixup", "none")


@strict
class UaMixConfig(PreTrainedConfig):
    r"""
    Configuration of [`UaMixForContrastiveTuning`]. The paper's own numbers are unknown; these are the project's choices
    (method.md 3.1-3.4).

    Args:
        encoder_config: Configuration of the encoder that is tuned.
        layers_path: Where the encoder keeps its blocks, such as `"encoder.layers"`; found by name if None.
        input_mean, input_std, input_std_factor: Views are made of raw log-mels and then normalised with these.
        min_crop: Smallest share of a clip that the random crop in time leaves; 1 turns it off.
        min_view_frames: Shorter clips are not cropped, longer ones not below this; of a spoken word every part counts.
        resize_time, resize_mel: A view is a stretch of the clip, or of its mel bins, that is up to this many times
            longer or shorter and resampled to the view's size; 1 turns either off.
        background: Another clip of the batch lies behind a view with up to this share of the power; 0 turns it off.
        gain_alpha: A view's gain is drawn from Beta(gain_alpha, gain_alpha) + 0.5; 0 turns it off.
        equalizer_db: A view passes a random smooth filter within this many dB, up and down; 0 turns it off.
        noise_snr: A view gets stationary noise of a random spectrum at this many dB below its mean power, or up to 30
            dB less of it; None turns it off.
        token_drop: Share of the tokens dropped from every view, where the encoder can drop tokens. None leaves it to
            training: 0 for less than an hour of sound (docs/experiments.md), 0.5 for more, which takes half the time.
        mix: `"t-cutmix"` pastes a stretch of time of another clip over all mel bins, `"cutmix"` a box in time and mel,
            `"mixup"` blends the log-mels, `"none"` leaves the method without mixtures.
        mix_alpha: The share lambda of the clip itself is drawn from Beta(mix_alpha, mix_alpha).
        mix_probability: Probability that a clip is mixed at all.
        mix_per_sample: Whether every clip draws its own lambda, or the batch one.
        mix_dominant: Whether lambda is mirrored to at least 0.5.
        mix_align: Cuts fall on multiples of this many frames (and mel bins); the patch size keeps tokens pure.
        mix_position: Where the pasted stretch lies: `"segment"`, anywhere with equal probability; `"prefix"`, at the
            end; `"center_clip"`, around a centre anywhere and clipped, as CutMix does, which favours large lambdas.
        pairing: `"random"` partners without a clip being its own, or `"reverse"` order of the batch.
        symmetric_mix: Whether view b is mixed too, with keys from view a.
        mix_weight: Weight of the mixtures' loss beside the clean one.
        projector_hidden_size, projection_size, predictor_hidden_size: Widths of the heads (method.md 2.2).
        queue_size: Keys in the support set. Training shrinks it to the number of clips; 0 is no support set: the key of
            a clip is its own other view.
        topk: The neighbour is drawn from this many nearest keys.
        temperature: Divides the similarities.
        ema_momentum: Of the target projector, per optimiser step.
    """

    model_type = "uamix"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: dict | PreTrainedConfig | None = None
    layers_path: str | None = None
    input_mean: float | int = -4.2677393
    input_std: float | int = 4.5689974
    input_std_factor: float | int = 2.0
    min_crop: float | int = 0.3
    min_view_frames: int = 96
    resize_time: float | int = 1.25
    resize_mel: float | int = 1.15
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
        """Values outside these ranges would give NaN or a constant loss."""
        for name, low, high in (
            ("input_std", 1e-6, 1e6), ("input_std_factor", 1e-6, 1e6), ("min_crop", 0.01, 1),
            ("min_view_frames", 0, 1e6), ("resize_time", 1, 10), ("resize_mel", 1, 10), ("background", 0, 0.99),
            ("gain_alpha", 0, 1e6), ("equalizer_db", 0, 60), ("noise_snr", -100, 100), ("token_drop", 0, 0.99),
            ("mix_alpha", 1e-3, 1e3), ("mix_probability", 0, 1), ("mix_align", 1, 1e4), ("mix_weight", 0, 1e6),
            ("queue_size", 0, 1e9), ("topk", 1, 1e9), ("temperature", 1e-3, 1e3), ("ema_momentum", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value} is outside [{low:g}, {high:g}].")


def uamix_arguments() -> type:
    """A dataclass of the method's fields, so that a command line has a flag for each of them."""
    own = UaMixConfig.__annotations__
    from_elsewhere = ("encoder_config", "input_mean", "input_std", "input_std_factor")
    kinds: dict[Any, Any] = {float | int: float, float | int | None: float | None}
    flags: list[tuple[str, Any, Any]] = []
    for entry in fields(UaMixConfig):
        if entry.name in own and entry.name not in from_elsewhere:
            kind = kinds.get(own[entry.name], own[entry.name])
            flags.append((entry.name, kind, field(default=entry.default, metadata={"help": "see UaMixConfig"})))
    return make_dataclass("UaMixArguments", flags)


__all__ = ["MIXES", "UaMixConfig", "uamix_arguments"]
