"""Describes a project whose checkpoints can be converted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class System:
    """A project whose checkpoints can be converted.

    Args:
        convert: Takes tensors by key and the other entries of the checkpoint (`cfg`, `args`, ...); keywords with a
            default are options of the command. Returns the model, its feature extractor and the report of keys.
        licence: Identifier of the weights' licence, for the metadata of the card.
        licence_note: Licences of code and weights in Markdown, for the card.
        citation: Reference, for the card.
        tags: Tags of the card.
        remarks: Caveats for users, in Markdown, for the card.
        changes: How conversion changes the weights.
    """

    convert: Callable[..., tuple[Any, Any, Any]]
    licence: str
    licence_note: str
    citation: str
    tags: tuple[str, ...]
    remarks: str = ""
    changes: str = "the values are unchanged"


__all__ = ["System"]
