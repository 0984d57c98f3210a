"""Audio-MAE as a transformers model, and uaMix tuning of audio encoders for tasks with few labels."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForPreTraining,
    AutoProcessor,
)

from .audio import AudioDecodeError, DamagedAudioWarning, TruncatedAudioWarning, load_audio, stream_audio
from .checkpoints import RunCheckpointError
from .configuration_audio_mae import AudioMAEConfig
from .data import DataError, compute_norm_stats
from .embedding import AudioEmbedder
from .feature_extraction_audio_mae import AudioInputError, AudioMAEFeatureExtractor
from .interruption import RunStoppedError
from .modeling_audio_mae import (
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    InputTooLongError,
)
from .run_identity import AnotherRunError
from .trainer import NonFiniteLossError
from .tuning import UaMixConfig, UaMixForContrastiveTuning, UaMixTrainer, UaMixTrainingArguments
from .version import __version__
from .whitening import fit_whitening

AutoConfig.register("audio_mae", AudioMAEConfig, exist_ok=True)
AutoModel.register(AudioMAEConfig, AudioMAEModel, exist_ok=True)
AutoModelForPreTraining.register(AudioMAEConfig, AudioMAEForPreTraining, exist_ok=True)
AutoModelForAudioClassification.register(AudioMAEConfig, AudioMAEForAudioClassification, exist_ok=True)
AutoConfig.register("uamix", UaMixConfig, exist_ok=True)
AutoFeatureExtractor.register(AudioMAEConfig, AudioMAEFeatureExtractor, exist_ok=True)
AutoProcessor.register(AudioMAEConfig, AudioMAEFeatureExtractor, exist_ok=True)

# Saved folders carry the three flat modules, so that they load where this package is absent.
AudioMAEConfig.register_for_auto_class()
AudioMAEModel.register_for_auto_class("AutoModel")
AudioMAEForPreTraining.register_for_auto_class("AutoModelForPreTraining")
AudioMAEForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
AudioMAEFeatureExtractor.register_for_auto_class()

__all__ = [
    "AnotherRunError",
    "AudioDecodeError",
    "AudioEmbedder",
    "AudioInputError",
    "AudioMAEConfig",
    "AudioMAEFeatureExtractor",
    "AudioMAEForAudioClassification",
    "AudioMAEForPreTraining",
    "AudioMAEModel",
    "DamagedAudioWarning",
    "DataError",
    "InputTooLongError",
    "NonFiniteLossError",
    "RunCheckpointError",
    "RunStoppedError",
    "TruncatedAudioWarning",
    "UaMixConfig",
    "UaMixForContrastiveTuning",
    "UaMixTrainer",
    "UaMixTrainingArguments",
    "__version__",
    "compute_norm_stats",
    "fit_whitening",
    "load_audio",
    "stream_audio",
]
