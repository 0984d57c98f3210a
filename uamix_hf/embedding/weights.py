"""What identifies an encoder: its weights, and how its embedding is made of them."""

import hashlib
import json

import torch

from .embedder import AudioEmbedder
from .saving import IDLE


def weights_digest(embedder: AudioEmbedder) -> str:
    """SHA-256 of an encoder's weights, layer, pooling and whitening, and of its front end's settings.

    It does not depend on where the encoder was loaded from, but on its type of numbers; the longest window, which
    changes no window's embedding, is not part of it.

    Args:
        embedder: Its weights are in memory.

    Raises:
        ValueError: Weights that are offloaded to a disk.
    """
    model, adapter = embedder.model, embedder.adapter
    settings, front_end = adapter.read_settings(model), embedder.feature_extractor.to_dict()
    described = {name: value for name, value in front_end.items() if name not in IDLE}
    choices = [type(model).__name__, adapter.pooling, settings.layer, described]
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True, default=str).encode())
    tensors = dict(model.state_dict())
    if settings.whitening is not None:
        tensors |= zip(("whitening mean", "whitening matrix"), settings.whitening, strict=True)
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta:
            raise ValueError(f"{name} is offloaded: load the encoder whole, by device instead of device_map.")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


__all__ = ["weights_digest"]
