from .audio.errors import AudioDecodeError, DamagedAudioWarning, TruncatedAudioWarning
from .audio.loading import load_audio, stream_audio
from .data import DataError, compute_norm_stats
from .embedding.embedder import AudioEmbedder
from .embedding.whitening import fit_whitening
from .fine_tuning.configuration_classifier import EncoderClassifierConfig
from .fine_tuning.modeling_classifier import EncoderForAudioClassification
from .models.audio_mae.configuration_audio_mae import AudioMAEConfig
from .models.audio_mae.feature_extraction_audio_mae import AudioInputError, AudioMAEFeatureExtractor, FrontEndError
from .models.audio_mae.modeling_audio_mae import (
    AudioMAEForAudioClassification,
    AudioMAEForPreTraining,
    AudioMAEModel,
    InputTooLongError,
)
from .models.beats.configuration_beats import BeatsConfig
from .models.beats.modeling_beats import BeatsForAudioClassification, BeatsModel
from .models.front_ends import front_end
from .models.mae_ast.configuration_mae_ast import MAEASTConfig
from .models.mae_ast.modeling_mae_ast import MAEASTModel
from .models.ssamba.configuration_ssamba import SSAMBAConfig
from .models.ssamba.modeling_ssamba import SSAMBAModel
from .models.waveform_frames import WaveformFrames
from .search import AudioIndex, AudioIndexError
from .trainer import NotTunedError, UaMixTrainer
from .training.checkpoints import RunCheckpointError
from .training.interruption import RunStoppedError
from .training.run_identity import AnotherRunError
from .training.trainer import NonFiniteLossError
from .tuning import UaMixConfig, UaMixForContrastiveTuning, UaMixTrainingArguments
from .version import __version__

__all__ = [
    "AnotherRunError",
    "AudioDecodeError",
    "AudioEmbedder",
    "AudioIndex",
    "AudioIndexError",
    "AudioInputError",
    "AudioMAEConfig",
    "AudioMAEFeatureExtractor",
    "AudioMAEForAudioClassification",
    "AudioMAEForPreTraining",
    "AudioMAEModel",
    "BeatsConfig",
    "BeatsForAudioClassification",
    "BeatsModel",
    "DamagedAudioWarning",
    "DataError",
    "EncoderClassifierConfig",
    "EncoderForAudioClassification",
    "FrontEndError",
    "InputTooLongError",
    "MAEASTConfig",
    "MAEASTModel",
    "NonFiniteLossError",
    "NotTunedError",
    "RunCheckpointError",
    "RunStoppedError",
    "SSAMBAConfig",
    "SSAMBAModel",
    "TruncatedAudioWarning",
    "UaMixConfig",
    "UaMixForContrastiveTuning",
    "UaMixTrainer",
    "UaMixTrainingArguments",
    "WaveformFrames",
    "__version__",
    "compute_norm_stats",
    "fit_whitening",
    "front_end",
    "load_audio",
    "stream_audio",
]
