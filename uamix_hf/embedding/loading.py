"""Encoders out of the folders of larger models."""

from typing import Any, TypeVar

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .layers import EncoderError
from .settings import LOCATION

Model = TypeVar("Model", bound=PreTrainedModel)


def load_config(name_or_path: str, **kwargs: Any) -> Any:
    """Loads the configuration of a folder, by those keywords of `from_pretrained` that locate it."""
    return AutoConfig.from_pretrained(name_or_path, **{key: kwargs[key] for key in LOCATION if key in kwargs})


def load_part(kind: type[Model], name_or_path: str, config: PreTrainedConfig, prefix: str, **kwargs: Any) -> Model:
    """Loads an encoder from the weights of a larger model, whose other weights are not read.

    Args:
        kind: Class of the encoder.
        name_or_path: Folder or Hub repository of the larger model.
        config: Configuration of the encoder.
        prefix: Regular expression of what the encoder's weights have before their names there; empty for nothing.
        **kwargs: Keywords of `from_pretrained`.

    Raises:
        EncoderError: The folder lacks weights of the encoder.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a report of the other weights would follow
    try:
        loaded: Any = kind.from_pretrained(
            name_or_path,
            config=config,
            key_mapping={prefix: ""} if prefix else None,
            output_loading_info=True,
            **kwargs,
        )
    finally:
        logging.set_verbosity(verbosity)
    encoder, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise EncoderError(f"{name_or_path} lacks weights of {kind.__name__}, such as {missing[0]}.")
    vars(encoder).pop("_weight_conversions", None)  # saving would give the weights their names in the larger model
    encoder.config.architectures = [kind.__name__]
    return encoder


__all__ = ["load_config", "load_part"]
