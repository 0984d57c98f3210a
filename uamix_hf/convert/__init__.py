"""Other projects' checkpoints to ours: one module per system, each a table of its keys."""

from pathlib import Path

from ..hub.cards import converted_card
from .audiomae import convert_audiomae
from .checkpoint import CheckpointError, KeyReport, UnsafeCheckpointError, find_checkpoint, read_checkpoint

SYSTEMS = {"audiomae": convert_audiomae}


def convert(
    system: str,
    source: str,
    target: str,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
) -> KeyReport:
    """Writes TARGET: safetensors, configuration, preprocessor, code and card of another project's checkpoint SOURCE.

    Args:
        system: One of `SYSTEMS`. source: A file, a folder that holds one checkpoint, or a repository on the Hub.

    Raises:
        CheckpointError: nothing is written; the message names the file or the keys, and says what to do.
        UnsafeCheckpointError: the file is a pickle that holds more than tensors; nothing of it was executed.
    """
    path = find_checkpoint(source)
    tensors, arguments = read_checkpoint(path)
    try:
        model, extractor, report = SYSTEMS[system](tensors, arguments, num_attention_heads, decoder_num_attention_heads)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if report.missing:
        raise CheckpointError(f"{path} lacks {len(report.missing)} keys of its layout: {', '.join(report.missing)}.")
    model.save_pretrained(target)
    extractor.save_pretrained(target)
    converted_card(system, source, type(model).__name__).save(Path(target) / "README.md")
    return report


__all__ = ["SYSTEMS", "CheckpointError", "KeyReport", "UnsafeCheckpointError", "convert"]
