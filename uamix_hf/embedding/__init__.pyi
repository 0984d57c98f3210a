from .embedder import AudioEmbedder
from .encoders import EncoderAdapter, EncoderError
from .features import average_outputs, embed_features
from .frames import FrameEmbeddings
from .kinds import load_encoder, load_feature_extractor, make_adapter, register_encoder
from .saving import save_encoder, save_feature_extractor
from .settings import EmbeddingConfigError, EmbeddingSettings
from .shard_files import ShardSettingsError
from .shards import ShardReport, embed_to_shards
from .waveform import WaveformAdapter
from .whitening import check_whitening

__all__ = [
    "AudioEmbedder",
    "EmbeddingConfigError",
    "EmbeddingSettings",
    "EncoderAdapter",
    "EncoderError",
    "FrameEmbeddings",
    "ShardReport",
    "ShardSettingsError",
    "WaveformAdapter",
    "average_outputs",
    "check_whitening",
    "embed_features",
    "embed_to_shards",
    "load_encoder",
    "load_feature_extractor",
    "make_adapter",
    "register_encoder",
    "save_encoder",
    "save_feature_extractor",
]
