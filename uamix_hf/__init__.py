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

from .fine_tuning.configuration_classifier import EncoderClassifierConfig
from .fine_tuning.modeling_classifier import EncoderForAudioClassification
from .models.audio_mae.configuration_audio_mae import AudioMAEConfig
from .models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .models.audio_mae.modeling_audio_mae import (
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
)
from .models.beats.configuration_beats import BeatsConfig
from .models.beats.modeling_beats import BeatsForAudioClassification, BeatsModel
from .models.mae_ast.configuration_mae_ast import MAEASTConfig
from .models.mae_ast.modeling_mae_ast import MAEASTModel
from .models.ssamba.configuration_ssamba import SSAMBAConfig
from .models.ssamba.modeling_ssamba import SSAMBAModel
from .models.waveform_frames import WaveformFrames
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
AutoConfig.register("mae_ast", MAEASTConfig, exist_ok=True)
AutoModel.register(MAEASTConfig, MAEASTModel, exist_ok=True)
AutoConfig.register("ssamba", SSAMBAConfig, exist_ok=True)
AutoModel.register(SSAMBAConfig, SSAMBAModel, exist_ok=True)
AutoConfig.register("audio_encoder_classifier", EncoderClassifierConfig, exist_ok=True)
AutoModelForAudioClassification.register(EncoderClassifierConfig, EncoderForAudioClassification, exist_ok=True)
AutoConfig.register("uamix", UaMixConfig, exist_ok=True)
# Front ends are found by the name in their file, whatever the model.
AutoFeatureExtractor.register(EncoderClassifierConfig, WaveformFrames, exist_ok=True)
for _config in (AudioMAEConfig, BeatsConfig, MAEASTConfig, SSAMBAConfig):
    AutoFeatureExtractor.register(_config, AudioMAEFeatureExtractor, exist_ok=True)
    AutoProcessor.register(_config, AudioMAEFeatureExtractor, exist_ok=True)

# Saved folders contain the flat modules of the model, so that they load where this package is absent.
AudioMAEConfig.register_for_auto_class()
AudioMAEModel.register_for_auto_class("AutoModel")
AudioMAEForPreTraining.register_for_auto_class("AutoModelForPreTraining")
AudioMAEForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
BeatsConfig.register_for_auto_class()
BeatsModel.register_for_auto_class("AutoModel")
BeatsForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
MAEASTConfig.register_for_auto_class()
MAEASTModel.register_for_auto_class("AutoModel")
SSAMBAConfig.register_for_auto_class()
SSAMBAModel.register_for_auto_class("AutoModel")
AudioMAEFeatureExtractor.register_for_auto_class()
