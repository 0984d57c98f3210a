"""What a configuration of the method leaves to the encoder, and what an encoder cannot do."""

from ..data.domains import LOG_MEL, WAVEFORM
from ..embedding.encoders import EncoderAdapter
from ..training.augmentations import checked_token_drop, resolve_resize_mel
from .configuration_uamix import UaMixConfig

# Mean, standard deviation and its factor: AudioSet's of Audio-MAE, and waveforms as they are.
STATISTICS = {LOG_MEL: (-4.2677393, 4.5689974, 2.0), WAVEFORM: (0.0, 1.0, 1.0)}


def resolve_for_encoder(config: UaMixConfig, adapter: EncoderAdapter) -> None:
    """Fills in the fields whose default depends on the encoder, so that they are saved.

    `token_drop` stays None where tokens can be dropped: the amount of audio decides, see [`resolve_token_drop`].

    Args:
        config: Configuration, changed in place.
        adapter: Adapter of the encoder.

    Raises:
        ValueError: A setting that has no meaning for the encoder.
    """
    if adapter.domain == WAVEFORM and config.mix == "cutmix":
        raise ValueError(
            f"mix='cutmix': its boxes in time and frequency have no meaning for {type(adapter.base).__name__}, which "
            "takes waveforms: choose t-cutmix, mixup or none."
        )
    config.resize_mel = resolve_resize_mel(config.resize_mel, adapter.domain)
    config.token_drop = checked_token_drop(config.token_drop, adapter)
    fields = ("input_mean", "input_std", "input_std_factor")
    for field, value in zip(fields, STATISTICS[adapter.domain], strict=True):
        if getattr(config, field) is None:
            setattr(config, field, value)


__all__ = ["resolve_for_encoder"]
