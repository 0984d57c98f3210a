"""Audio-MAE as a transformers model, and uaMix tuning of audio encoders for tasks with few labels."""

import lazy_loader
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForPreTraining,
    AutoProcessor,
)

from .models.audio_mae.configuration_audio_mae import AudioMAEConfig
from .models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .models.audio_mae.modeling_audio_mae import (
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
)
from .models.beats.configuration_beats import BeatsConfig
from .models.beats.modeling_beats import BeatsForAudioClassification, BeatsModel
from .tuning.configuration_uamix import UaMixConfig

# Trainers, data and evaluation are imported when they are asked for: they take scikit-learn and datasets.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

AutoConfig.register("audio_mae", AudioMAEConfig, exist_ok=True)
AutoModel.register(AudioMAEConfig, AudioMAEModel, exist_ok=True)
AutoModelForPreTraining.register(AudioMAEConfig, AudioMAEForPreTraining, exist_ok=True)
AutoModelForAudioClassification.register(AudioMAEConfig, AudioMAEForAudioClassification, exist_ok=True)
AutoConfig.register("beats", BeatsConfig, exist_ok=True)
AutoModel.register(BeatsConfig, BeatsModel, exist_ok=True)
AutoModelForAudioClassification.register(BeatsConfig, BeatsForAudioClassification, exist_ok=True)
AutoConfig.register("uamix", UaMixConfig, exist_ok=True)
AutoFeatureExtractor.register(AudioMAEConfig, AudioMAEFeatureExtractor, exist_ok=True)
AutoFeatureExtractor.register(BeatsConfig, AudioMAEFeatureExtractor, exist_ok=True)
AutoProcessor.register(AudioMAEConfig, AudioMAEFeatureExtractor, exist_ok=True)
AutoProcessor.register(BeatsConfig, AudioMAEFeatureExtractor, exist_ok=True)

# Saved folders carry the flat modules of the model, so that they load where this package is absent.
AudioMAEConfig.register_for_auto_class()
AudioMAEModel.register_for_auto_class("AutoModel")
AudioMAEForPreTraining.register_for_auto_class("AutoModelForPreTraining")
AudioMAEForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
BeatsConfig.register_for_auto_class()
BeatsModel.register_for_auto_class("AutoModel")
BeatsForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
AudioMAEFeatureExtractor.register_for_auto_class()
