"""Whether a feature extractor fits an encoder."""

from typing import Any

from transformers import PreTrainedConfig

# Of a model and its feature extractor alike.
SIZES = ("num_mel_bins", "patch_size", "time_stride")


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


def check_length(extractor: Any, max_frames: int) -> None:
    """Checks that windows of the feature extractor's length are not too long.

    Raises:
        ValueError: They are.
    """
    if extractor.max_length > max_frames:
        raise ValueError(
            f"{type(extractor).__name__} has max_length={extractor.max_length}, the length of windows, and the model "
            f"takes {max_frames} frames: set feature_extractor.max_length to that or less."
        )


__all__ = ["SIZES", "check_length", "check_sizes"]
