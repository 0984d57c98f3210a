from .embedder import AudioEmbedder
from .log_mels import average_outputs, embed_log_mels

__all__ = [
    "AudioEmbedder",
    "average_outputs",
    "embed_log_mels",
]
