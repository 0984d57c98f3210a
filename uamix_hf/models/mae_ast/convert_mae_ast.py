"""Released MAE-AST checkpoints (fairseq's layout) to the encoder of this package."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..checkpoint import CheckpointError, KeyReport, load_converted
from ..front_ends import front_end
from ..system import System
from .configuration_mae_ast import MAEASTConfig
from .modeling_mae_ast import MAEASTModel

# Their names -> ours.
STEM = {"post_extract_proj": "embeddings.projection", "encoder.layer_norm": "embeddings.layernorm"}
LAYER = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.o_proj",
    "self_attn_layer_norm": "attention_layernorm",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "final_layer_norm": "final_layernorm",
}
POSITIONS = "enc_sine_pos_embed.pe"
# Normalisation of the log-mels, which is the feature extractor's.
STATISTICS = ("batch_norm.running_mean", "batch_norm.running_var")
BATCH_NORM_EPS = 1e-5
# What this package implements, by the names of the checkpoint's `cfg["model"]`.
IMPLEMENTED = {
    "layer_norm_first": False,
    "activation_fn": "gelu",
    "enc_sine_pos": True,
    "enc_conv_pos": False,
    "use_post_enc_proj": False,
}
# Settings of `cfg["model"]` that act in training only and have no counterpart here.
TRAINING_SETTINGS = ("encoder_layerdrop", "dropout_input", "activation_dropout")
# Frames of 10 ms: a little more than the clips of AudioSet. The sinusoidal table of the checkpoint is longer.
MAX_LENGTH = 1024


def layout(config: MAEASTConfig) -> Iterator[tuple[str, str]]:
    """Every key of the layout that is renamed only, and our name for it."""
    for suffix in ("weight", "bias"):
        yield from ((f"{theirs}.{suffix}", f"{ours}.{suffix}") for theirs, ours in STEM.items())
        for i in range(config.num_hidden_layers):
            for theirs, ours in LAYER.items():
                yield f"encoder.layers.{i}.{theirs}.{suffix}", f"layers.{i}.{ours}.{suffix}"


def read_config(tensors: Mapping[str, torch.Tensor], entries: Mapping[str, Any]) -> MAEASTConfig:
    """Reads the sizes from `cfg`, and the length of the position table."""
    cfg = entries.get("cfg")
    cfg = cfg.get("model") if isinstance(cfg, Mapping) else None
    if not isinstance(cfg, Mapping):
        raise CheckpointError(
            'The checkpoint has no cfg["model"], which records the sizes of patches and the number of heads: convert '
            "the original file, or save a dictionary of its `model` and `cfg` (of plain values) with torch.save."
        )

    def setting(name: str) -> Any:
        if name not in cfg:
            raise CheckpointError(f'The checkpoint\'s cfg["model"] has no {name}: this is not a layout of MAE-AST.')
        return cfg[name]

    expected = IMPLEMENTED | {
        "ast_kernel_stride_time": setting("ast_kernel_size_time"),
        "ast_kernel_stride_chan": setting("ast_kernel_size_chan"),
    }
    for name, value in expected.items():
        if setting(name) != value:
            raise CheckpointError(f"The checkpoint has {name}={cfg[name]}; only {name}={value} is implemented.")
    patch, mel_bins = setting("ast_kernel_size_time"), 128
    rows = mel_bins // setting("ast_kernel_size_chan")
    columns = MAX_LENGTH // patch
    if POSITIONS in tensors:
        columns = min(columns, tensors[POSITIONS].shape[1] // max(rows, 1))
    try:
        return MAEASTConfig(
            hidden_size=setting("encoder_embed_dim"),
            num_hidden_layers=setting("encoder_layers"),
            num_attention_heads=setting("encoder_attention_heads"),
            intermediate_size=setting("encoder_ffn_embed_dim"),
            hidden_dropout_prob=cfg.get("dropout", 0.0),
            attention_probs_dropout_prob=cfg.get("attention_dropout", 0.0),
            num_mel_bins=mel_bins,
            max_length=columns * patch,
            patch_size=patch,
            patch_mel_bins=setting("ast_kernel_size_chan"),
        )
    except StrictDataclassError as error:
        raise CheckpointError(f"The checkpoint's sizes do not make a model: {error}") from error


def why_ignored(key: str) -> str:
    """Reason for which a key of the checkpoint is not used."""
    if key.startswith(("decoder", "dec_", "final_proj_")):
        return "belongs to the decoder of pretraining"
    if key.startswith(("encoder_mask_emb", "layer_norm.")):
        return "does not act on unmasked input"
    if key == "batch_norm.num_batches_tracked":
        return "counts training steps"
    return "not a key of MAE-AST"


def convert_mae_ast(
    tensors: Mapping[str, torch.Tensor], entries: Mapping[str, Any]
) -> tuple[MAEASTModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts MAE-AST's tensors, of the patch model or the frame model.

    Args:
        tensors: Tensors by key, without the wrapper.
        entries: The other entries of the file, of which `cfg["model"]` is read.

    Returns:
        The encoder (float32, evaluation mode), its feature extractor, which has the running statistics of the
        checkpoint, and the report of keys. If `report.missing` is not empty, the model must not be used.

    Raises:
        CheckpointError: another layout, settings that are not implemented, or shapes that contradict each other.
    """
    config = read_config(tensors, entries)
    pairs = dict(layout(config)) | {POSITIONS: "embeddings.position_embeddings"}
    known = [*pairs, *STATISTICS]
    cfg = entries["cfg"]["model"]
    report = KeyReport(
        used=[key for key in tensors if key in known],
        ignored={key: why_ignored(key) for key in tensors if key not in known},
        missing=[key for key in known if key not in tensors],
        notes=[f"{name}={cfg[name]} is not carried over" for name in TRAINING_SETTINGS if cfg.get(name)],
    )
    state = {pairs[key]: tensors[key].float() for key in report.used if key in pairs}
    if POSITIONS in tensors:
        time, mel = config.grid_size
        state[pairs[POSITIONS]] = tensors[POSITIONS][:, : time * mel].float()
    model = load_converted(MAEASTModel(config), state, report)
    statistics = [tensors[key].double().reshape(-1) for key in STATISTICS if key in tensors]
    if any(len(values) != 1 for values in statistics):
        raise CheckpointError(f"{' and '.join(STATISTICS)} have more than one value: log-mels have one channel.")
    mean, variance = (values.item() for values in statistics) if len(statistics) == 2 else (0.0, 1.0)
    extractor = front_end(
        "mae_ast",
        mean=mean,
        std=(variance + BATCH_NORM_EPS) ** 0.5,
        std_factor=2.0,  # MAE-AST halves what its batch norm returns
        max_length=config.max_length,
        patch_size=config.patch_size,
    )
    return model, extractor, report


MAE_AST = System(
    convert=convert_mae_ast,
    licence="unknown",
    licence_note=(
        "AlanBaade/MAE-AST-Public has no licence file and states no licence for the weights; headers of its files, "
        "which derive from fairseq, say MIT. **Ask the authors before you use or pass on these weights.**"
    ),
    citation=(
        'Baade et al., "MAE-AST: Masked Autoencoding Audio Spectrogram Transformer", Interspeech 2022, '
        "arXiv 2203.16691."
    ),
    tags=("audio", "mae-ast", "masked-autoencoder"),
    remarks="This is the encoder; the decoder of pretraining is left out. Embeddings are means of the last layer's "
    "tokens: MAE-AST defines no embedding of a clip.",
    changes="no value was changed; the statistics of its batch norm are in the feature extractor",
)
