"""Tiny encoders with random weights, one of each kind that the package knows, and their front ends."""

from typing import Any

from encoder_checks import scramble
from toy_encoders import small_clap, small_wav2vec2_bert
from transformers import (
    ASTConfig,
    ASTModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    set_seed,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from uamix_hf import (
    AudioMAEConfig,
    AudioMAEFeatureExtractor,
    AudioMAEModel,
    BeatsConfig,
    BeatsModel,
    MAEASTConfig,
    MAEASTModel,
    SSAMBAConfig,
    SSAMBAModel,
    front_end,
)
from uamix_hf.embedding.kinds import front_end_of

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}
STATISTICS: dict[str, Any] = {"mean": -1.2, "std": 3.0, "max_length": 64}


def whisper() -> tuple[PreTrainedModel, Any]:
    sizes = {"d_model": 24, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 40}
    return WhisperEncoder(WhisperConfig(**sizes, max_source_positions=32)), front_end("whisper", max_length=64)


def ast() -> tuple[PreTrainedModel, Any]:
    config = ASTConfig(**SIZES, max_length=64, num_mel_bins=32)
    return ASTModel(config), AudioMAEFeatureExtractor(num_mel_bins=32, **STATISTICS)


def mae_ast() -> tuple[PreTrainedModel, Any]:
    return MAEASTModel(MAEASTConfig(**SIZES, max_length=64, patch_mel_bins=16)), front_end("mae_ast", **STATISTICS)


def ssamba() -> tuple[PreTrainedModel, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "time_step_rank": 3, "state_size": 5, "max_length": 64}
    return SSAMBAModel(SSAMBAConfig(**sizes)), front_end("ssamba", **STATISTICS)


def beats() -> tuple[PreTrainedModel, Any]:
    config = BeatsConfig(**SIZES, max_length=64, patch_embedding_size=24, num_conv_pos_embedding_groups=4)
    return BeatsModel(config), front_end("beats", max_length=64)


def audio_mae() -> tuple[PreTrainedModel, Any]:
    config = AudioMAEConfig(**SIZES, max_length=64, num_mel_bins=32)
    return AudioMAEModel(config), AudioMAEFeatureExtractor(num_mel_bins=32, **STATISTICS)


def clap() -> tuple[PreTrainedModel, Any]:
    return small_clap().audio_model, front_end("clap", max_length=64)


def wav2vec2_bert() -> tuple[PreTrainedModel, Any]:
    return small_wav2vec2_bert(), front_end("wav2vec2_bert", max_length=64)


def wav2vec2() -> tuple[PreTrainedModel, Any]:
    front = {"conv_dim": [16, 16, 16], "conv_kernel": [10, 8, 4], "conv_stride": [10, 8, 4]}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    encoder = Wav2Vec2Model(Wav2Vec2Config(**SIZES, **front, **positions))
    extractor = front_end_of(encoder, Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False))
    extractor.max_length = 64
    return encoder, extractor


KINDS = {one.__name__: one for one in (wav2vec2, whisper, clap, wav2vec2_bert, ast, mae_ast, ssamba, beats, audio_mae)}


def tiny_encoder(kind: str, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """An encoder of three layers with random weights, and its front end, whose windows have 64 frames."""
    set_seed(seed)
    encoder, extractor = KINDS[kind]()
    scramble(encoder)
    return encoder.eval(), extractor
