"""What the optimiser is given: a learning rate for each depth of an encoder, and weight decay where it belongs."""

from collections.abc import Mapping
from typing import Any

from torch import nn

NO_DECAY = ("token", "position_embeddings")


def layer_rates(depths: Mapping[str, int], deepest: int, learning_rate: float, layer_decay: float) -> dict[str, float]:
    """Learning rate of each parameter by name: `learning_rate * layer_decay ** (deepest - depth)` (method.md 1.7)."""
    return {name: learning_rate * layer_decay ** (deepest - depth) for name, depth in depths.items()}


def parameter_groups(
    model: nn.Module,
    encoder_prefix: str,
    encoder_rates: Mapping[str, float],
    weight_decay: float,
    head_learning_rate: float,
    head_weight_decay: float,
) -> list[dict[str, Any]]:
    """Every trainable parameter once, in a group for each learning rate and weight decay; biases, norms, tokens and
    positions have no weight decay.

    Args:
        encoder_prefix: With which the names of the encoder's parameters begin in the model, such as `"encoder."`.
        encoder_rates: Learning rate of each of them by its name in the encoder; all others are the head's.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = head_learning_rate, head_weight_decay
        if name.startswith(encoder_prefix):
            rate, decay = encoder_rates[name.removeprefix(encoder_prefix)], weight_decay
        if parameter.ndim <= 1 or name.endswith(NO_DECAY):
            decay = 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": part, "lr": rate, "weight_decay": decay} for (rate, decay), part in groups.items()]


__all__ = ["layer_rates", "parameter_groups"]
