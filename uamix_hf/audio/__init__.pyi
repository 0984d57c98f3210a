from .errors import AudioDecodeError, DamagedAudioWarning, TruncatedAudioWarning
from .loading import load_audio, stream_audio

__all__ = [
    "AudioDecodeError",
    "DamagedAudioWarning",
    "TruncatedAudioWarning",
    "load_audio",
    "stream_audio",
]
