from .embedder import AudioEmbedder
from .encoders import EncoderAdapter, EncoderError
from .kinds import load_encoder, load_feature_extractor, make_adapter, register_encoder, save_encoder
from .log_mels import average_outputs, embed_log_mels
from .settings import EmbeddingConfigError, EmbeddingSettings

__all__ = [
    "AudioEmbedder",
    "EmbeddingConfigError",
    "EmbeddingSettings",
    "EncoderAdapter",
    "EncoderError",
    "average_outputs",
    "embed_log_mels",
    "load_encoder",
    "load_feature_extractor",
    "make_adapter",
    "register_encoder",
    "save_encoder",
]
