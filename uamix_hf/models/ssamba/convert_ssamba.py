"""Released SSAMBA checkpoints to the encoder of this package."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..checkpoint import CheckpointError, KeyReport, load_converted
from ..front_ends import front_end
from ..system import System
from .configuration_ssamba import SSAMBAConfig
from .modeling_ssamba import SSAMBAModel

# Their names -> ours. `{}` is nothing for the forward scan and `_b` for the backward scan of a block.
STEM = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.projection.bias",
    "norm_f.weight": "layernorm.weight",
    "norm_f.bias": "layernorm.bias",
}
BLOCK = {
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "mixer.in_proj.weight": "in_proj.weight",
    "mixer.out_proj.weight": "out_proj.weight",
}
SCAN = {
    "mixer.conv1d{}.weight": "conv1d.weight",
    "mixer.conv1d{}.bias": "conv1d.bias",
    "mixer.x_proj{}.weight": "x_proj.weight",
    "mixer.dt_proj{}.weight": "dt_proj.weight",
    "mixer.dt_proj{}.bias": "dt_proj.bias",
    "mixer.A{}_log": "A_log",
    "mixer.D{}": "D",
}
PATCHES = "patch_embed.proj.weight"
# Mel bins and frames of the input in pretraining, where the file has them.
INPUT_SIZES = ("p_input_fdim", "p_input_tdim")
MEL_BINS = 128


def layout(config: SSAMBAConfig, prefix: str) -> Iterator[tuple[str, str]]:
    """Every key of the layout and our name for it; blocks 2 i and 2 i + 1 are the two of layer i."""
    yield from ((f"{prefix}v.{theirs}", ours) for theirs, ours in STEM.items())
    for i in range(2 * config.num_hidden_layers):
        theirs, ours = f"{prefix}v.layers.{i}", f"layers.{i // 2}.{('forward_block', 'backward_block')[i % 2]}"
        yield from ((f"{theirs}.{name}", f"{ours}.{our_name}") for name, our_name in BLOCK.items())
        for scan, suffix in (("forward_scan", ""), ("backward_scan", "_b")):
            for name, our_name in SCAN.items():
                yield f"{theirs}.{name.format(suffix)}", f"{ours}.{scan}.{our_name}"


def read_config(tensors: Mapping[str, torch.Tensor], prefix: str) -> SSAMBAConfig:
    """Reads the sizes from the shapes of the tensors."""

    def shape(name: str, axes: int) -> torch.Size:
        tensor = tensors.get(f"{prefix}v.{name}")
        if tensor is None:
            raise CheckpointError(f"The checkpoint has no {prefix}v.{name}: this is not a layout of SSAMBA.")
        if tensor.ndim != axes:
            raise CheckpointError(f"{prefix}v.{name} has shape {tuple(tensor.shape)}, expected {axes} axes.")
        return tensor.shape

    blocks = {int(found[1]) for key in tensors if (found := re.match(rf"{prefix}v\.layers\.(\d+)\.", key))}
    if not blocks or len(blocks) % 2 or blocks != set(range(len(blocks))):
        raise CheckpointError(f"The checkpoint has {len(blocks)} blocks: SSAMBA's work in pairs, numbered from 0.")
    hidden_size, _, patch_mel_bins, patch = shape(PATCHES, 4)  # their input is (mel, time)
    mel_bins, frames = (int(tensors[key]) if (key := f"{prefix}{name}") in tensors else None for name in INPUT_SIZES)
    mel_bins = mel_bins or MEL_BINS
    rows, tokens = mel_bins // patch_mel_bins, shape("pos_embed", 3)[1] - 1
    columns = tokens // max(rows, 1)
    if rows * columns != tokens or (frames or columns * patch) // patch != columns:
        raise CheckpointError(
            f"The checkpoint has positions of {tokens} tokens; patches of {patch_mel_bins} x {patch} that do not "
            f"overlap cut {mel_bins} mel bins and {frames or 'any number of'} frames to another number. Only those are "
            "implemented."
        )
    channels, state_size = shape("layers.0.mixer.A_log", 2)
    try:
        return SSAMBAConfig(
            hidden_size=hidden_size,
            num_hidden_layers=len(blocks) // 2,
            state_size=state_size,
            conv_kernel=shape("layers.0.mixer.conv1d.weight", 3)[2],
            expand=channels // hidden_size,
            time_step_rank=shape("layers.0.mixer.dt_proj.weight", 2)[1],
            num_mel_bins=mel_bins,
            max_length=columns * patch,
            patch_size=patch,
            patch_mel_bins=patch_mel_bins,
        )
    except StrictDataclassError as error:
        raise CheckpointError(f"The checkpoint's sizes do not make a model: {error}") from error


def why_ignored(key: str, prefix: str) -> str:
    """Reason for which a key of the checkpoint is not used.

    Raises:
        CheckpointError: a part of a block, without which the outputs would be wrong.
    """
    name = key.removeprefix(prefix)
    if name.startswith("v.layers."):
        raise CheckpointError(f"The checkpoint has {key}, which is no part of SSAMBA's blocks as implemented here.")
    if name.startswith(("mask_embed", "cpredlayer", "gpredlayer")):
        return "belongs to pretraining"
    if name.startswith("v.head"):
        return "a layer of 1000 classes that SSAMBA never uses"
    if name.startswith("mlp_head"):
        return "a fine-tuned classifier; the encoder alone is converted"
    return "not a key of SSAMBA"


def convert_ssamba(
    tensors: Mapping[str, torch.Tensor], entries: Mapping[str, Any]
) -> tuple[SSAMBAModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts SSAMBA's tensors.

    Args:
        tensors: Tensors by key, with or without the prefix `module.` of a parallel model.
        entries: The other entries of the file, of which none is read.

    Returns:
        The encoder (float32, evaluation mode), its feature extractor and the report of keys. If `report.missing` is not
        empty, the model must not be used.

    Raises:
        CheckpointError: another layout, sizes that are not implemented, or shapes that contradict each other.
    """
    prefix = "module." if any(key.startswith("module.v.") for key in tensors) else ""
    config = read_config(tensors, prefix)
    pairs = dict(layout(config, prefix))
    known = {*pairs, *(f"{prefix}{name}" for name in INPUT_SIZES)}
    report = KeyReport(
        used=[key for key in tensors if key in known],
        ignored={key: why_ignored(key, prefix) for key in tensors if key not in known},
        missing=[key for key in pairs if key not in tensors],
    )
    state = {pairs[key]: tensors[key].float() for key in report.used if key in pairs}
    state[STEM[PATCHES]] = state[STEM[PATCHES]].transpose(2, 3).contiguous()
    model = load_converted(SSAMBAModel(config), state, report)
    extractor = front_end("ssamba", max_length=config.max_length, patch_size=config.patch_size)
    return model, extractor, report


SSAMBA = System(
    convert=convert_ssamba,
    licence="bsd-3-clause",
    licence_note=(
        "The repository SiavashShams/ssamba, which links the weights, has the BSD 3-Clause licence (its text is "
        "SSAST's); Vim and mamba, which SSAMBA builds on, are Apache-2.0."
    ),
    citation=(
        'Shams et al., "SSAMBA: Self-Supervised Audio Representation Learning with Mamba State Space Model", 2024, '
        "arXiv 2405.11831."
    ),
    tags=("audio", "ssamba", "state-space-model"),
    remarks="This is the encoder. SSAMBA's own scripts pad each clip and count the padding as audio: call the feature "
    'extractor with `padding="max_length"` for their numbers.',
    changes="no value was changed; axes of the patch projection were swapped",
)
