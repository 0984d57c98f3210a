from .configuration_audio_mae import AudioMAEConfig
from .feature_extraction_audio_mae import AudioInputError, AudioMAEFeatureExtractor, FrontEndError
from .modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEForPreTraining, AudioMAEModel, InputTooLongError

__all__ = [
    "AudioInputError",
    "AudioMAEConfig",
    "AudioMAEFeatureExtractor",
    "AudioMAEForAudioClassification",
    "AudioMAEForPreTraining",
    "AudioMAEModel",
    "FrontEndError",
    "InputTooLongError",
]
