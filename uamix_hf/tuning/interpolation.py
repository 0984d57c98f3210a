"""Interpolation of tuned weights with those before tuning (WiSE-FT, Wortsman et al., 2022)."""

from typing import Any

import torch

from ..embedding.peft_folders import has_adapters
from ..training.lora import LoraError

# Of the product that LoRA adds to a weight, the factor that is 0 before tuning: its size is the adapter's.
SCALED = ("lora_B", "lora_embedding_B")
OTHER_FACTOR = ("lora_A", "lora_embedding_A")


def check_interpolation(encoder: Any) -> None:
    """Checks, before tuning, that an encoder's weights can be interpolated.

    Adapters can where the trained parameters are LoRA's two factors, of which one is 0: then scaling that one is the
    interpolation of the merged weights.

    Args:
        encoder: The encoder that will be tuned, with its adapters if it has any.

    Raises:
        LoraError: adapters of another kind, or adapters that have been trained already.
    """
    if not has_adapters(encoder):
        return
    trained = [name for name, value in encoder.named_parameters() if value.requires_grad]
    parts = {name: set(name.split(".")) for name in trained}
    if others := [name for name in trained if not parts[name] & {*SCALED, *OTHER_FACTOR}]:
        raise LoraError(
            f"interpolate with adapters: {others[0]} is trained, and scaling the adapters would leave it as it is. "
            "Use plain LoRA, without DoRA, biases or modules_to_save, or leave interpolate out."
        )
    if begun := [name for name in trained if parts[name] & {*SCALED} and encoder.get_parameter(name).any()]:
        raise LoraError(
            f"interpolate with adapters that have been trained already ({begun[0]}): scaling them would not give the "
            "weights between. Merge them into the encoder first (merge_and_unload), or leave interpolate out."
        )


@torch.no_grad()
def interpolate(encoder: Any, start: Any, fraction: float) -> None:
    """Sets an encoder's weights to `(1 - fraction)` times those before tuning plus `fraction` times its own.

    Frozen weights stay as they are, bit by bit. Statistics of batch norms are interpolated like weights. LoRA's
    adapters are scaled by `fraction`.

    Args:
        encoder: The tuned encoder, changed in place.
        start: The same encoder before tuning; not read where there are adapters.
        fraction: Fraction of the tuned weights.
    """
    if has_adapters(encoder):
        for name, value in encoder.named_parameters():
            if value.requires_grad and {*name.split(".")} & {*SCALED}:
                value.mul_(fraction)
        return
    before = start.state_dict()
    for name, value in encoder.state_dict().items():
        if value.is_floating_point():
            precise = torch.promote_types(value.dtype, torch.float32)
            value.copy_(torch.lerp(before[name].to(value.device, precise), value.to(precise), fraction))


__all__ = ["check_interpolation", "interpolate"]
