"""Export of a trained model: the encoder alone, in half precision, with its preprocessor."""

import copy
import json
from pathlib import Path

import torch
from transformers import AutoFeatureExtractor, AutoModel

from ..models.audio_mae.modeling_audio_mae import AudioMAEModel


def export_encoder(source: str | Path, target: str | Path) -> None:
    """Writes encoder, configuration and preprocessor of `source` to `target`; a decoder or classifier is left out.

    Weights are stored as float16, a whitening as float32, since it would lose precision where directions are scaled up.
    The configuration's `dtype` is float32, so that `from_pretrained` loads them as float32.

    Args:
        source: Folder or Hub repository of an Audio-MAE.
        target: Folder, created if it does not exist.

    Raises:
        OSError: no such source.
        TypeError: another kind of encoder.
        ValueError: weights that float16 cannot hold.
    """
    model = AutoModel.from_pretrained(source, dtype=torch.float32)
    if not isinstance(model, AudioMAEModel):
        raise TypeError(f"{source} holds a {type(model).__name__}; only Audio-MAE encoders are exported.")
    whitening = copy.deepcopy(model.whitening)
    model.half()
    model.whitening = whitening
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"{name} of {source} has values that float16 cannot hold.")
    model.save_pretrained(target)
    AutoFeatureExtractor.from_pretrained(source).save_pretrained(target)
    path = Path(target) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["export_encoder"]
