from .configuration_beats import BeatsConfig
from .modeling_beats import BeatsForAudioClassification, BeatsModel

__all__ = [
    "BeatsConfig",
    "BeatsForAudioClassification",
    "BeatsModel",
]
