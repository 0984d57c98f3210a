"""Converts checkpoints in the key names of timm's vision transformers, which several projects share."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from .audio_mae.configuration_audio_mae import AudioMAEConfig
from .checkpoint import CheckpointError, KeyReport, load_converted

ModelType = TypeVar("ModelType", bound=nn.Module)
# Their names -> ours; `attn.qkv` is split into three.
BLOCK = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.{q,k,v}_proj",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
QKV = "{q,k,v}"
PATCHES = "embeddings.patch_embeddings.projection"
POSITIONS = "embeddings.position_embeddings"
PREFIX = "embeddings.cls_token"
# Our name -> their keys, and what makes our tensor of theirs.
Computed = Mapping[str, tuple[tuple[str, ...], Callable[..., torch.Tensor]]]


def names_of(theirs: str, ours: str, table: Iterable[tuple[str, str]] = (("", ""),)) -> dict[str, str]:
    """Keys of the weights and biases of modules, and our names for them."""
    return {
        f"{theirs}{name}.{suffix}": f"{ours}{our_name}.{suffix}"
        for name, our_name in table
        for suffix in ("weight", "bias")
    }


def block_names(theirs: str, ours: str, layers: int) -> dict[str, str]:
    """Keys of `{theirs}.0` and so on, and our names for them below `{ours}.0`."""
    names: dict[str, str] = {}
    for i in range(layers):
        names |= names_of(f"{theirs}.{i}.", f"{ours}.{i}.", BLOCK.items())
    return names


def encoder_names(prefix: str, base: str, layers: int, blocks: str = "blocks", norm: str = "norm") -> dict[str, str]:
    """Keys of an encoder that are taken as they are, and our names for them.

    Args:
        prefix: Before each key, with a dot at its end.
        base: Before each of our names, likewise.
        layers: Number of layers.
        blocks: Key of the list of layers.
        norm: Key of the final LayerNorm.
    """
    names = block_names(f"{prefix}{blocks}", f"{base}layers", layers) | names_of(f"{prefix}{norm}", f"{base}layernorm")
    return names | {f"{prefix}patch_embed.proj.bias": f"{base}{PATCHES}.bias"}


def make_config(**fields: Any) -> AudioMAEConfig:
    """Makes the configuration of a converted model.

    Raises:
        CheckpointError: The fields are not valid.
    """
    try:
        return AudioMAEConfig(**fields)
    except StrictDataclassError as error:
        raise CheckpointError(f"The checkpoint's sizes are not valid: {error}") from error


def shape_of(tensors: Mapping[str, torch.Tensor], key: str, system: str, axes: int) -> torch.Size:
    """Shape of a tensor that sizes are read from.

    Raises:
        CheckpointError: The checkpoint has no such tensor, or one of other axes.
    """
    if key not in tensors:
        raise CheckpointError(f"The checkpoint has no {key}: this is not a layout of {system}.")
    if tensors[key].ndim != axes:
        raise CheckpointError(f"{key} has shape {tuple(tensors[key].shape)}, expected {axes} axes.")
    return tensors[key].shape


def encoder_sizes(
    tensors: Mapping[str, torch.Tensor], blocks: str, system: str, num_attention_heads: int | None
) -> dict[str, Any]:
    """Reads the fields of the configuration that describe the layers.

    Args:
        tensors: Tensors by key.
        blocks: Key before the number of a layer, such as `"blocks"`.
        system: Name of the project, for errors.
        num_attention_heads: Heads, which checkpoints do not record; hidden size / 64 if None.

    Raises:
        CheckpointError: Keys are missing, or the number of heads does not divide the hidden size.
    """
    inner, hidden_size = shape_of(tensors, f"{blocks}.0.mlp.fc1.weight", system, 2)
    numbers = {int(found[1]) for key in tensors if (found := re.match(rf"{re.escape(blocks)}\.(\d+)\.", key))}
    heads = num_attention_heads or hidden_size // 64
    if heads < 1 or hidden_size % heads:
        raise CheckpointError(
            f"{heads} heads do not divide the hidden size {hidden_size}. Checkpoints do not record the number of "
            "heads: give --num_attention_heads."
        )
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": 1 + max(numbers),
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


def time_major(table: torch.Tensor, prefix: int, bands: int) -> torch.Tensor:
    """Reorders a position table (1, prefix + bands * columns, width) from frequency-major to time-major tokens.

    Attention without relative positions does not depend on the order of its tokens.
    """
    rows = table[:, prefix:].unflatten(1, (bands, -1)).transpose(1, 2).flatten(1, 2)
    return torch.cat([table[:, :prefix], rows], dim=1)


def time_first(kernel: torch.Tensor) -> torch.Tensor:
    """Swaps the axes of a patch projection (width, 1, mel, time): our input is (frames, mel bins)."""
    return kernel.transpose(2, 3).contiguous()


def columns_of(rows: int, bands: int, key: str) -> int:
    """Time columns of a position table of this many patches.

    Raises:
        CheckpointError: The patches do not make whole columns.
    """
    if rows < 1 or rows % bands:
        raise CheckpointError(f"{key} has {rows} positions of patches, not a positive multiple of {bands} bands.")
    return rows // bands


def fill(
    model: ModelType,
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[str, str],
    why_ignored: Callable[[str], str],
    computed: Computed | None = None,
) -> tuple[ModelType, KeyReport]:
    """Loads a checkpoint's tensors into a model.

    Args:
        model: A fresh model.
        tensors: Tensors by key.
        names: Their keys and our names; `{q,k,v}` in ours splits a tensor into three.
        why_ignored: Reason why a key is not used.
        computed: Tensors that are not taken as they are, by our names.

    Returns:
        The model in evaluation mode and the report of keys. If `report.missing` is not empty, the model is incomplete.

    Raises:
        CheckpointError: Tensors of other shapes than the model's.
    """
    computed = computed or {}
    needed = dict.fromkeys([*names, *(key for keys, _ in computed.values() for key in keys)])
    report = KeyReport(
        used=[key for key in tensors if key in needed],
        ignored={key: why_ignored(key) for key in tensors if key not in needed},
        missing=[key for key in needed if key not in tensors],
    )
    state: dict[str, torch.Tensor] = {}
    for theirs, ours in names.items():
        if theirs not in tensors:
            continue
        tensor = tensors[theirs].float()
        if QKV in ours:
            state |= {ours.replace(QKV, part): rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            state[ours] = tensor
    for ours, (keys, function) in computed.items():
        if all(key in tensors for key in keys):
            state[ours] = function(*(tensors[key].float() for key in keys))
    return load_converted(model, state, report), report
