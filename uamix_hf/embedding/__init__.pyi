from .embedder import AudioEmbedder
from .log_mels import average_windows, embed_log_mels

__all__ = [
    "AudioEmbedder",
    "average_windows",
    "embed_log_mels",
]
