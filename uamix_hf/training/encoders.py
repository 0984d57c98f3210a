"""The encoder contract, which training shares with embedding."""

from ..embedding.encoders import EncoderAdapter, EncoderError

__all__ = ["EncoderAdapter", "EncoderError"]
