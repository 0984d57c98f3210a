"""Small encoders of each kind that the package takes: in memory, with short windows, or as folders.

Those of transformers and of the package have random weights; the systems of `uamix-hf convert` are converted from
fixtures.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from encoder_checks import scramble
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import uamix_hf
from uamix_hf.__main__ import main
from uamix_hf.embedding.kinds import adapter_class, front_end_of
from uamix_hf.models.front_ends import front_end

# Systems of `uamix-hf convert`, each with one of its fixtures and what that needs.
CONVERTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "audiomae": ("pretrained_local", ()),
    "asit": ("pretrained", ()),
    "beats": ("pretrained", ()),
    "birdmae": ("encoder_release", ()),
    "mae_ast": ("patch", ()),
    "matpac": ("pretrained", ()),
    "openbeats": ("pretrained", ()),
    "passt": ("stride10", ()),
    "ssamba": ("pretrained", ()),
    "ssast": ("pretrained_patch", ("--max_length", "256")),
}
SHORT_FRAMES = 64  # of the windows of `short_encoder`


class Kind(NamedTuple):
    """What an encoder with random weights is made of."""

    model: type[PreTrainedModel]
    fields: dict[str, Any]  # of its configuration
    extractor: Callable[[], Any]  # its own feature extractor
    short: dict[str, Any] = {}  # noqa: RUF012  # fields of an encoder for short windows


def waves(normalize: bool) -> Callable[[], Wav2Vec2FeatureExtractor]:
    return lambda: Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=normalize)


def preset(system: str, **settings: Any) -> Callable[[], uamix_hf.AudioMAEFeatureExtractor]:
    return lambda: front_end(system, max_length=SHORT_FRAMES, **settings)


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
STATISTICS = {"mean": -1.2, "std": 3.0}
SPECTROGRAM = SIZES | {"max_length": SHORT_FRAMES, "num_mel_bins": 32}
TOWER = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
# Some layers of the convolutional front of wav2vec 2.0, of the same stride as its seven, and all of them.
FRONT = {"conv_dim": [16, 16, 16], "conv_kernel": [10, 8, 4], "conv_stride": [10, 8, 4]}
WAVES = SIZES | FRONT | {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}  # as the larger models of most classes
CLAP = {
    "patch_embeds_hidden_size": 8, "depths": [1, 2, 1], "num_attention_heads": [1, 2, 4], "hidden_size": 32,
    "num_hidden_layers": 3, "patch_size": 8, "patch_stride": [8, 8], "aff_block_r": 2, "projection_dim": 12,
}  # fmt: skip
# What acts in training mode only, as likely as it may be.
ACTING = {"layerdrop": 0.5, "mask_time_prob": 0.5, "mask_time_length": 2}

# Each class of transformers.
IN_TREE: dict[str, Kind] = {
    "ast": Kind(
        transformers.ASTModel,
        SIZES | {"max_length": 128},
        lambda: transformers.ASTFeatureExtractor(max_length=128),
        {"max_length": SHORT_FRAMES},
    ),
    "whisper": Kind(
        transformers.WhisperModel,
        TOWER | DECODER,
        transformers.WhisperFeatureExtractor,
        {"max_source_positions": SHORT_FRAMES // 2},
    ),
    "clap": Kind(transformers.ClapAudioModel, CLAP, lambda: transformers.ClapFeatureExtractor(truncation="rand_trunc")),
    "qwen2_audio_encoder": Kind(
        transformers.Qwen2AudioEncoder,
        TOWER | {"num_mel_bins": 128},
        lambda: transformers.WhisperFeatureExtractor(feature_size=128),
    ),
    "wav2vec2-bert": Kind(
        transformers.Wav2Vec2BertModel,
        SIZES | ACTING | {"conv_depthwise_kernel_size": 5},
        transformers.SeamlessM4TFeatureExtractor,
    ),
    "wav2vec2": Kind(transformers.Wav2Vec2Model, WAVES, waves(False)),
    "wav2vec2-layer-norm": Kind(transformers.Wav2Vec2Model, WAVES | LAYER_NORM, waves(True)),
    "hubert": Kind(transformers.HubertModel, WAVES, waves(False)),
    "wavlm": Kind(transformers.WavLMModel, WAVES, waves(True)),
    "data2vec-audio": Kind(transformers.Data2VecAudioModel, WAVES | {"num_conv_pos_embeddings": 3}, waves(True)),
    "unispeech": Kind(transformers.UniSpeechModel, WAVES, waves(True)),
    "unispeech-sat": Kind(transformers.UniSpeechSatModel, WAVES, waves(True)),
    "sew": Kind(transformers.SEWModel, WAVES | {"squeeze_factor": 2}, waves(False)),
}
# Builds that differ from one of those in a detail.
RELATED: dict[str, Kind] = {
    "voxtral_encoder": IN_TREE["qwen2_audio_encoder"]._replace(
        model=transformers.VoxtralEncoder, fields=SIZES | {"num_mel_bins": 128}
    ),
    "audioflamingo3_encoder": IN_TREE["qwen2_audio_encoder"]._replace(
        model=transformers.AudioFlamingo3Encoder, fields=SIZES | {"num_mel_bins": 128}
    ),
    "wav2vec2-adapter": Kind(
        transformers.Wav2Vec2Model, WAVES | LAYER_NORM | {"add_adapter": True, "output_hidden_size": 20}, waves(True)
    ),
    "wav2vec2-conformer": Kind(
        transformers.Wav2Vec2ConformerModel, WAVES | {"feat_extract_norm": "layer"}, waves(True)
    ),
    "hubert-layer-norm": Kind(transformers.HubertModel, WAVES | LAYER_NORM, waves(True)),
    "hubert-batch-norm": Kind(
        transformers.HubertModel, WAVES | {"feat_extract_norm": "layer", "conv_pos_batch_norm": True}, waves(True)
    ),
    "wavlm-layer-norm": Kind(transformers.WavLMModel, WAVES | LAYER_NORM, waves(True)),
    "unispeech-sat-layer-norm": Kind(transformers.UniSpeechSatModel, WAVES | LAYER_NORM, waves(True)),
    "sew-d": Kind(transformers.SEWDModel, WAVES | {"squeeze_factor": 2}, waves(False)),
}
# The package's own classes.
OWN: dict[str, Kind] = {
    "audio_mae": Kind(
        uamix_hf.AudioMAEModel,
        SPECTROGRAM,
        lambda: uamix_hf.AudioMAEFeatureExtractor(num_mel_bins=32, max_length=SHORT_FRAMES, **STATISTICS),
    ),
    "beats": Kind(
        uamix_hf.BeatsModel,
        SIZES | {"max_length": SHORT_FRAMES, "patch_embedding_size": 24, "num_conv_pos_embedding_groups": 4},
        preset("beats"),
    ),
    "mae_ast": Kind(
        uamix_hf.MAEASTModel,
        SIZES | {"max_length": SHORT_FRAMES, "patch_mel_bins": 16},
        preset("mae_ast", **STATISTICS),
    ),
    "ssamba": Kind(
        uamix_hf.SSAMBAModel,
        {"hidden_size": 16, "num_hidden_layers": 3, "time_step_rank": 3, "state_size": 5, "max_length": SHORT_FRAMES},
        preset("ssamba", **STATISTICS),
    ),
}
RANDOM = IN_TREE | RELATED | OWN
KINDS = (*CONVERTED, *IN_TREE)  # from folder to folder, whatever the package does with an encoder
# One of each build of those that differ by more than a detail: what is done with all takes long.
BUILDS = (*OWN, "ast", "whisper", "clap", "wav2vec2-bert", "wav2vec2")


def slow_but(fast: Iterable[str], kinds: Iterable[str]) -> list[Any]:
    """Parameters of a test: kinds, all but some of them marked as slow."""
    return [kind if kind in fast else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def domain(kind: str) -> str:
    """`"waveform"` or `"log-mel"`."""
    return "log-mel" if kind in CONVERTED else adapter_class(RANDOM[kind].model.config_class()).domain


WAVEFORMS = tuple(kind for kind in IN_TREE if domain(kind) == "waveform")
ALL_WAVEFORMS = (*WAVEFORMS, *(kind for kind in RELATED if domain(kind) == "waveform"))


def make_encoder(kind: str, seed: int = 0, **fields: Any) -> PreTrainedModel:
    """The encoder of a kind of `RANDOM` in evaluation mode, with random weights as after some training.

    Args:
        fields: Of its configuration, in place of those that the kind has.
    """
    model = WhisperEncoder if kind == "whisper" else RANDOM[kind].model
    return made(model, RANDOM[kind].fields | fields, seed)


def made(model: type[PreTrainedModel], fields: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = model(model.config_class(**fields))
    scramble(encoder)
    return encoder.eval()


def as_published(kind: str) -> dict[str, Any]:
    """Fields of the convolutions of published models, whose tokens overlap, for an encoder of waveforms."""
    config = RANDOM[kind].model.config_class()
    return {
        "conv_dim": [16] * len(config.conv_kernel), "conv_kernel": config.conv_kernel,
        "conv_stride": config.conv_stride,
    }  # fmt: skip


def short_encoder(kind: str, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """An encoder of `RANDOM` in memory, and its front end, whose windows have 64 frames."""
    encoder = make_encoder(kind, seed, **RANDOM[kind].short)
    own = RANDOM[kind].extractor()
    made = own if kind in OWN else front_end_of(encoder, own)
    made.max_length = SHORT_FRAMES
    return encoder, made


def write_encoder(kind: str, folder: Path, fixtures: Path | None = None) -> Path:
    """Writes encoder and feature extractor of a kind to a folder.

    Args:
        fixtures: Checkpoints of other projects, for the converted kinds; without them they have random weights.
    """
    if fixtures is None or kind not in CONVERTED:
        model, fields, extractor, _ = RANDOM[kind]
        made(model, fields).save_pretrained(folder)
        extractor().save_pretrained(folder)
        return folder
    file, flags = CONVERTED[kind]
    source = next((fixtures / kind).glob(f"{file}.[ps][ta]*"))
    sizes = json.loads((fixtures / kind / f"{file}.json").read_text())
    if kind in ("asit", "audiomae", "birdmae", "matpac", "passt", "ssast"):  # does not record the number of heads
        flags = (*flags, "--num_attention_heads", str(sizes["num_heads"]))
    if kind in ("audiomae", "birdmae") and "decoder_num_heads" in sizes:
        flags = (*flags, "--decoder_num_attention_heads", str(sizes["decoder_num_heads"]))
    assert main(["convert", kind, str(source), str(folder), *flags]) == 0
    return folder
