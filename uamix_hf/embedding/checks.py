"""Whether a model is an encoder, and a feature extractor fits it."""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..models.front_ends import front_end

# Of a model and its feature extractor alike.
SIZES = ("num_mel_bins", "patch_size", "time_stride")
STATISTICS = ("mean", "std", "std_factor")


def check_sizes(config: PreTrainedConfig, extractor: Any, sizes: tuple[str, ...]) -> None:
    """Checks that a model's configuration and a feature extractor have the same sizes.

    Raises:
        ValueError: They do not.
    """
    for size in sizes:
        made, taken = getattr(extractor, size, None), getattr(config, size, None)
        if made != taken:
            raise ValueError(
                f"{type(extractor).__name__} has {size}={made} and the model {taken}: give the feature extractor that "
                "was saved with the model."
            )


def check_statistics(extractor: Any, system: str, num_mel_bins: int) -> None:
    """Checks that a feature extractor normalises as that of a system, and has the encoder's mel bins.

    Args:
        extractor: The feature extractor.
        system: The system's name, as in [`front_end`].
        num_mel_bins: Mel bins that the encoder takes.

    Raises:
        ValueError: It does not.
    """
    wanted = front_end(system, num_mel_bins=num_mel_bins)
    for name in ("num_mel_bins", "patch_size", *STATISTICS):
        made, taken = getattr(extractor, name, None), getattr(wanted, name)
        if made != taken:
            raise ValueError(
                f"{type(extractor).__name__} has {name}={made} and the encoder {taken}: make it by "
                f"uamix_hf.models.front_ends.front_end({system!r})."
            )


def check_length(extractor: Any, max_frames: int) -> None:
    """Checks that windows of the feature extractor's length are not too long.

    Raises:
        ValueError: They are.
    """
    if extractor.max_length > max_frames:
        raise ValueError(
            f"{type(extractor).__name__} has max_length={extractor.max_length}, the length of windows, and the model "
            f"takes {max_frames} frames: set feature_extractor.max_length (--max_length) to that or less."
        )


def check_config(config: PreTrainedConfig | None, name: str) -> None:
    """Checks that a configuration is not that of a uaMix model, which contains an encoder and its heads.

    Raises:
        TypeError: It is.
    """
    if getattr(config, "model_type", None) == "uamix":
        raise TypeError(
            f"{name} is a uaMix model: use its encoder, AudioEmbedder(model.encoder, feature_extractor), or the folder "
            "that the tuned encoder was saved to."
        )


def check_encoder(model: Any) -> None:
    """Checks that a model is an encoder.

    Raises:
        TypeError: It is not; the message says where its encoder is.
    """
    config = getattr(model, "config", None)
    check_config(config, type(model).__name__)
    if isinstance(model, PreTrainedModel) and model.base_model is not model:
        raise TypeError(f"{type(model).__name__} has a head: give AudioEmbedder its encoder, model.base_model.")


__all__ = ["SIZES", "check_config", "check_encoder", "check_length", "check_sizes", "check_statistics"]
