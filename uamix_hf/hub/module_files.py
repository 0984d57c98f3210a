"""Files beside an encoder: those by which sentence-transformers loads it, which need not be installed, and its card."""

import json
import os
import shutil
from pathlib import Path

import torch

from ..embedding.kinds import load_encoder, load_feature_extractor, make_adapter
from ..embedding.saving import save_encoder
from ..embedding.settings import find_file

AUDIO_ENCODER = "uamix_hf.hub.sentence_transformers.AudioEncoder"
MODULES = [{"idx": 0, "name": "0", "path": "", "type": AUDIO_ENCODER}]
CONFIG = {
    "model_type": "SentenceTransformer",
    "prompts": {},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
    # sentence-transformers names what is missing.
    "requirements": {"uamix_hf": {"specifier": "", "reason": f"The embeddings are computed by {AUDIO_ENCODER}."}},
}


def save_module_files(folder: str | os.PathLike) -> None:
    """Writes beside an encoder the small files by which sentence-transformers finds [`AudioEncoder`].

    Args:
        folder: Folder of the encoder and its feature extractor.
    """
    for name, entries in (("modules.json", MODULES), ("config_sentence_transformers.json", CONFIG)):
        (Path(folder) / name).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def copy_card(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copies the card of a folder or Hub repository, which states the licence, if there is one."""
    if card := find_file(source, "README.md", {}):
        shutil.copyfile(card, Path(target) / "README.md")


def export_sentence_transformer(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Writes an encoder of any kind with its feature extractor as a folder that sentence-transformers loads.

    Weights are stored as float32, so that embeddings are those of `source`. Its card comes along.

    Args:
        source: Folder or Hub repository of an encoder.
        target: Another folder, created if it does not exist.

    Raises:
        OSError: No such source, or no feature extractor in it.
        EncoderError: A model that is not an encoder.
        ValueError: `target` is `source`.
        EmbeddingConfigError: A file of embedding settings that cannot be used.
    """
    if Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"{target} is the source itself: give another folder.")
    encoder = load_encoder(source, dtype=torch.float32)
    make_adapter(encoder)  # which checks that it is one
    save_encoder(encoder, target, load_feature_extractor(source))
    save_module_files(target)
    copy_card(source, target)


__all__ = ["copy_card", "export_sentence_transformer", "save_module_files"]
