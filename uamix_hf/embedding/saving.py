"""How encoders are saved: in the files of their own class, with the settings of their embedding beside them."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..models.audio_mae.loading_audio_mae import WRITTEN_BY_TRANSFORMERS
from .encoders import base_of
from .kinds import adapter_class, front_end_of, make_front_end, settings_of
from .peft_folders import FOLDER, check_target, has_adapters, merged, remove_adapters, save_adapters

logger = logging.getLogger(__name__)

# Settings of a front end that do not change what it computes of a clip.
IDLE = {"max_length", "return_attention_mask", "truncation", "fbank_backend"} | WRITTEN_BY_TRANSFORMERS


def save_encoder(encoder: Any, folder: str | os.PathLike, feature_extractor: Any = None) -> None:
    """Saves an encoder with the settings of its embedding.

    transformers alone loads the folder, too: it holds the encoder's own classes. Adapters, such as LoRA's, are merged
    into the saved weights; `adapter/` in the folder holds them alone.

    Args:
        encoder: The encoder, which stays as it is.
        folder: Folder, created if it does not exist.
        feature_extractor: Its feature extractor or front end, which is saved with it as in [`save_feature_extractor`];
            not saved if None.

    Raises:
        EncoderError: Adapters would be saved over the encoder that they belong to.
    """
    base, adapted = base_of(encoder), has_adapters(encoder)
    if adapted:
        check_target(base.name_or_path, folder)
    remove_adapters(folder)
    (merged(encoder) if adapted else encoder).save_pretrained(os.fspath(folder))
    kind = adapter_class(base.config)
    settings, places = settings_of(base), [Path(folder)]
    if adapted:
        places.append(Path(folder) / FOLDER)
        save_adapters(encoder, places[1])
    if feature_extractor is not None:
        front_end = front_end_of(encoder, feature_extractor)
        for place in places:
            said = save_feature_extractor(feature_extractor, place, base.config)
        same = make_front_end(base.config, said).max_length == front_end.max_length
        settings = replace(settings, max_length=None if same else front_end.max_length)
    if not kind.own_whitening:
        settings.save(folder)
    for place in places[1:]:  # the encoder that adapters belong to has no whitening, and perhaps another layer
        replace(kind.read_settings(base), max_length=settings.max_length).save(place)


def save_feature_extractor(feature_extractor: Any, folder: str | os.PathLike, config: Any) -> Any:
    """Saves the feature extractor of an encoder, as one of the encoder's own class.

    Where that class cannot have a front end's settings, the front end is saved, with a warning: such a folder needs
    this package.

    Args:
        feature_extractor: The encoder's own feature extractor, or a front end.
        folder: Folder, created if it does not exist.
        config: Configuration of the encoder.

    Returns:
        The feature extractor that was saved.
    """
    front_end = make_front_end(config, feature_extractor)
    own = feature_extractor
    if front_end is feature_extractor:
        own = adapter_class(config).own_extractor(config, front_end)
        other = changed(front_end, make_front_end(config, own))
        if other:
            logger.warning(
                "%s cannot have this %s: the front end itself is saved in %s, which uamix_hf loads and transformers "
                "alone does not.", type(own).__name__, ", ".join(other), os.fspath(folder),
            )  # fmt: skip
            own = front_end
    own.save_pretrained(os.fspath(folder))
    return own


def changed(front_end: Any, made: Any) -> list[str]:
    """Names of the settings in which two front ends compute other features."""
    mine, other = front_end.to_dict(), made.to_dict()
    idle = IDLE | ({"remove_waveform_mean"} if mine.get("remove_frame_mean") else set())  # each frame's is, anyway
    return sorted(name for name in mine.keys() | other.keys() if name not in idle and mine.get(name) != other.get(name))


__all__ = ["save_encoder", "save_feature_extractor"]
