"""Export of a trained model: the encoder alone, in half precision, with its preprocessor."""

import copy
import json
from pathlib import Path

import torch
from transformers import AutoFeatureExtractor

from ..embedding.kinds import adapter_class, load_encoder, make_adapter
from ..embedding.saving import save_encoder
from .module_files import copy_card, save_module_files


def export_encoder(source: str | Path, target: str | Path) -> None:
    """Writes the encoder of `source`, its configuration, preprocessor and card to `target`, without decoder or head.

    sentence-transformers loads the folder, too.

    Weights are stored as float16, a whitening as float32, since it would lose precision where directions are scaled up.
    The configuration's `dtype` is float32, so that `from_pretrained` loads them as float32.

    Args:
        source: Folder or Hub repository of an encoder of any kind, or of a model that holds one.
        target: Folder, created if it does not exist.

    Raises:
        OSError: no such source, or no feature extractor in it.
        EncoderError: a model that is not an encoder.
        ValueError: weights that float16 cannot hold.
    """
    encoder = load_encoder(source, dtype=torch.float32)
    make_adapter(encoder)  # which checks that it is one
    extractor = AutoFeatureExtractor.from_pretrained(source)
    precise = copy.deepcopy(encoder.whitening) if adapter_class(encoder.config).own_whitening else None
    encoder.half()
    if precise is not None:
        encoder.whitening = precise
    for name, parameter in encoder.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"{name} of {source} has values that float16 cannot hold.")
    save_encoder(encoder, target)
    extractor.save_pretrained(target)
    path = Path(target) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_module_files(target)
    copy_card(source, target)


__all__ = ["export_encoder"]
