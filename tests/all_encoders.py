"""A folder of each kind of encoder that the package takes: converted from a fixture, or small with random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedConfig

from uamix_hf.__main__ import main

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
# Some layers of the convolutional front of wav2vec 2.0, of the same stride as its seven.
FRONT = {"conv_dim": [16, 16, 16], "conv_kernel": [10, 8, 4], "conv_stride": [10, 8, 4]}
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
WAVES = SMALL | FRONT | {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
MELS = {"d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
CLAP = {"patch_embeds_hidden_size": 16, "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2]}


def waves(normalize: bool) -> Callable[[], transformers.Wav2Vec2FeatureExtractor]:
    return lambda: transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=normalize)


# Model, configuration, and the feature extractor that is saved with it.
IN_TREE: dict[str, tuple[str, PreTrainedConfig, Callable]] = {
    "ast": (
        "ASTModel",
        transformers.ASTConfig(**SMALL, max_length=128),
        lambda: transformers.ASTFeatureExtractor(max_length=128),
    ),
    "whisper": (
        "WhisperModel",
        transformers.WhisperConfig(**MELS, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32),
        transformers.WhisperFeatureExtractor,
    ),
    "clap": (
        "ClapAudioModel",
        transformers.ClapAudioConfig(**CLAP, num_hidden_layers=2, projection_dim=16),
        transformers.ClapFeatureExtractor,
    ),
    "qwen2_audio_encoder": (
        "Qwen2AudioEncoder",
        transformers.Qwen2AudioEncoderConfig(**MELS, num_mel_bins=128),
        lambda: transformers.WhisperFeatureExtractor(feature_size=128),
    ),
    "wav2vec2-bert": (
        "Wav2Vec2BertModel",
        transformers.Wav2Vec2BertConfig(**SMALL, feature_projection_input_dim=160, conv_depthwise_kernel_size=5),
        transformers.SeamlessM4TFeatureExtractor,
    ),
    "wav2vec2": ("Wav2Vec2Model", transformers.Wav2Vec2Config(**WAVES), waves(False)),
    "wav2vec2-layer-norm": ("Wav2Vec2Model", transformers.Wav2Vec2Config(**WAVES, **LAYER_NORM), waves(True)),
    "hubert": ("HubertModel", transformers.HubertConfig(**WAVES), waves(False)),
    "wavlm": ("WavLMModel", transformers.WavLMConfig(**WAVES), waves(True)),
    "data2vec-audio": ("Data2VecAudioModel", transformers.Data2VecAudioConfig(**WAVES), waves(True)),
    "unispeech": ("UniSpeechModel", transformers.UniSpeechConfig(**WAVES), waves(True)),
    "unispeech-sat": ("UniSpeechSatModel", transformers.UniSpeechSatConfig(**WAVES), waves(True)),
    "sew": ("SEWModel", transformers.SEWConfig(**WAVES, squeeze_factor=2), waves(False)),
}
KINDS = (*CONVERTED, *IN_TREE)


def write_encoder(kind: str, folder: Path, fixtures: Path | None = None) -> Path:
    """Writes encoder and feature extractor of a kind to a folder.

    Args:
        fixtures: Checkpoints of other projects, for the converted kinds.
    """
    if kind in IN_TREE:
        name, config, extractor = IN_TREE[kind]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            getattr(transformers, name)(config).save_pretrained(folder)
        extractor().save_pretrained(folder)
        return folder
    assert fixtures is not None
    file, flags = CONVERTED[kind]
    source = next((fixtures / kind).glob(f"{file}.[ps][ta]*"))
    sizes = json.loads((fixtures / kind / f"{file}.json").read_text())
    if kind in ("asit", "audiomae", "birdmae", "matpac", "passt", "ssast"):  # does not record the number of heads
        flags = (*flags, "--num_attention_heads", str(sizes["num_heads"]))
    if kind in ("audiomae", "birdmae") and "decoder_num_heads" in sizes:
        flags = (*flags, "--decoder_num_attention_heads", str(sizes["decoder_num_heads"]))
    assert main(["convert", kind, str(source), str(folder), *flags]) == 0
    return folder
