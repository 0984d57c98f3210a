"""How a feature extractor is saved and loaded: every entry of its file counts, and strange ones are named."""

import inspect
import json
import os
from typing import Any

from transformers import SequenceFeatureExtractor
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Entries of a saved file besides the arguments.
WRITTEN_BY_TRANSFORMERS = {"auto_map", "feature_extractor_type", "feature_size", "padding_side", "processor_class"}
# Keywords that the Auto classes and pipelines pass to every extractor: how to find the file, and the model's own.
LOADING_OPTIONS = {
    "attn_implementation", "code_revision", "device_map", "dtype", "torch_dtype", "trust_remote_code", "_commit_hash"
}  # fmt: skip


class SavedFeatureExtractor(SequenceFeatureExtractor):
    """Feature extractor whose file has the arguments of its class, and no others."""

    auto_map: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        # AutoProcessor finds the class by this name; else it asks to run remote code from the folder.
        return super().to_dict() | {"processor_class": type(self).__name__}

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs) -> Any:
        """Makes a feature extractor from the entries of a saved file, as in transformers.

        Args:
            feature_extractor_dict: Entries of `preprocessor_config.json`.
            **kwargs: Arguments that override entries, also where the file lacks them. Any other keyword is named in a
                warning, because pipelines pass on keywords that are meant for the model.

        Raises:
            ValueError: The file has an entry that this version does not know.
        """
        known = inspect.signature(cls).parameters
        saved = {name: value for name, value in feature_extractor_dict.items() if name not in WRITTEN_BY_TRANSFORMERS}
        if unknown := saved.keys() - known:
            raise ValueError(
                f"The saved extractor has {', '.join(sorted(unknown))}, which {cls.__name__} does not know."
            )
        statistics = {name: saved[name] for name in ("mean", "std", "std_factor") if name in saved}
        if saved.get("padding_value") == cls(**statistics).padding_value:
            del saved["padding_value"]  # follows from the statistics, which a keyword may change
        extractor = cls(**saved | {name: value for name, value in kwargs.items() if name in known})
        if "auto_map" in feature_extractor_dict:
            extractor.auto_map = feature_extractor_dict["auto_map"]
        unused = {name: value for name, value in kwargs.items() if name not in known}
        if unused.pop("return_unused_kwargs", False):
            return extractor, unused
        if strange := unused.keys() - LOADING_OPTIONS:
            logger.warning(f"{cls.__name__} has no {', '.join(sorted(strange))}: not used.")
        return extractor

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Any:
        with open(json_file, encoding="utf-8") as file:
            return cls.from_dict(json.load(file))


__all__ = ["SavedFeatureExtractor"]
