"""What features are: log-mels or waveforms, both (frames, values of a frame)."""

import torch

LOG_MEL, WAVEFORM = "log-mel", "waveform"


def amplify(features: torch.Tensor, gain: torch.Tensor, domain: str) -> torch.Tensor:
    """Raw features of a clip whose waveform is multiplied by a gain.

    Args:
        features: Raw log-mels, the natural logarithm of power, or waveforms (..., frames, values).
        gain: Positive factors of the waveform, of a shape that broadcasts.
        domain: `"log-mel"` or `"waveform"`.
    """
    return features * gain if domain == WAVEFORM else features + 2 * gain.log()


__all__ = ["LOG_MEL", "WAVEFORM", "amplify"]
