"""Parameter groups of the optimiser: a learning rate for each depth of an encoder, and weight decay."""

from collections.abc import Mapping
from typing import Any

from torch import nn

NO_DECAY = ("token", "position_embeddings")


def layer_rates(depths: Mapping[str, int], deepest: int, learning_rate: float, layer_decay: float) -> dict[str, float]:
    """Learning rate of each parameter by name: `learning_rate * layer_decay ** (deepest - depth)` (BEiT).

    See docs/concepts/method.md, Fine-tuning.
    """
    return {name: learning_rate * layer_decay ** (deepest - depth) for name, depth in depths.items()}


def parameter_groups(
    model: nn.Module,
    encoder_prefix: str,
    encoder_rates: Mapping[str, float],
    weight_decay: float,
    head_learning_rate: float,
    head_weight_decay: float,
) -> list[dict[str, Any]]:
    """Groups the trainable parameters by learning rate and weight decay.

    Biases, norms, tokens and position tables have no weight decay.

    Args:
        model: The model.
        encoder_prefix: Prefix of the encoder's parameter names in the model, such as `"encoder."`.
        encoder_rates: Learning rate of each encoder parameter by its name in the encoder.
        weight_decay: Weight decay of the encoder.
        head_learning_rate: Learning rate of all other parameters.
        head_weight_decay: Weight decay of all other parameters.
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
