from .index import AudioIndex
from .results import Changes, Duplicate, Hit
from .store import AudioIndexError

__all__ = ["AudioIndex", "AudioIndexError", "Changes", "Duplicate", "Hit"]
