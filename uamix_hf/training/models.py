"""Encoder flags of the scripts, and the encoder and feature extractor that they load."""

import copy
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel


@dataclass
class EncoderArguments:
    """Which encoder to start from.

    Args:
        model_name_or_path: Folder or Hub repository of an encoder, a pretrained model or a classifier.
        model_revision: Branch, tag or commit of that repository.
        trust_remote_code: Whether to run code that comes with the model.
        attn_implementation: `"sdpa"` or `"eager"` attention.
        random_weights: Whether to start from random weights in an encoder of the same configuration instead.
    """

    model_name_or_path: str = field(metadata={"help": "Encoder to start from: folder or Hub repository."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of that repository."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether to run code that comes with the model."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa or eager attention."})
    random_weights: bool = field(
        default=False, metadata={"help": "Whether to start from random weights in an encoder of that configuration."}
    )

    @property
    def source(self) -> dict[str, Any]:
        """Keywords of `from_pretrained` that a model and its feature extractor have in common."""
        return {
            "pretrained_model_name_or_path": self.model_name_or_path,
            "revision": self.model_revision,
            "trust_remote_code": self.trust_remote_code,
        }

    def load_encoder(self, **changes: Any) -> PreTrainedModel:
        """Loads the encoder, with its weights or random ones, which are drawn from torch's global random state.

        Args:
            **changes: Fields of its configuration to change, such as `pooling`.

        Raises:
            OSError: No such folder or repository.
        """
        encoder = AutoModel.from_pretrained(**self.source, attn_implementation=self.attn_implementation, **changes)
        return with_random_weights(encoder) if self.random_weights else encoder

    def load_feature_extractor(self) -> Any:
        """Loads the feature extractor that was saved with the encoder.

        Raises:
            OSError: No such folder or repository, or no feature extractor in it.
        """
        return AutoFeatureExtractor.from_pretrained(**self.source)


def with_random_weights(encoder: PreTrainedModel) -> PreTrainedModel:
    """Makes an encoder of the same configuration with random weights."""
    config = copy.deepcopy(encoder.config)
    config.name_or_path = ""
    return type(encoder)(config)


__all__ = ["EncoderArguments", "with_random_weights"]
