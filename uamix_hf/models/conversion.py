"""Converts other projects' checkpoints: one module per project, each with a table of its keys."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .audio_mae.convert_audio_mae import convert_audiomae
from .checkpoint import CheckpointError, KeyReport, UnsafeCheckpointError, find_checkpoint, read_checkpoint

SYSTEMS = {"audiomae": convert_audiomae}
TEMPLATE = Path(__file__).parent / "templates" / "converted.md"
# Audio-MAE's LICENSE file says CC BY-NC 4.0, its README CC BY 4.0: the stricter one is the safe choice.
AUDIOMAE_LICENCE = "cc-by-nc-4.0"


def convert(
    system: str,
    source: str,
    target: str,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
) -> KeyReport:
    """Converts another project's checkpoint to a folder with safetensors, configuration, preprocessor, code and card.

    Args:
        system: Project, one of `SYSTEMS`.
        source: A file, a folder with one checkpoint, or a repository on the Hub.
        target: Folder to write.
        num_attention_heads: Heads of the encoder; hidden size / 64 by default.
        decoder_num_attention_heads: Heads of the decoder; its hidden size / 32 by default.

    Returns:
        The report of keys.

    Raises:
        CheckpointError: The checkpoint cannot be converted; the message names the file or the keys, and what to do.
            Nothing is written.
        UnsafeCheckpointError: The file is a pickle that holds more than tensors; nothing of it was executed.
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


def converted_card(system: str, source: str, architecture: str) -> ModelCard:
    """Makes the card of weights that were converted from another project."""
    data = ModelCardData(
        license=AUDIOMAE_LICENCE, library_name="transformers", pipeline_tag="feature-extraction",
        base_model=None if Path(source).exists() else source,
        tags=["audio", "audio-mae", "masked-autoencoder"],
    )  # fmt: skip
    return ModelCard.from_template(
        data, str(TEMPLATE),
        place=".", system=system, source=Path(source).name, architecture=architecture,
    )  # fmt: skip


__all__ = ["SYSTEMS", "CheckpointError", "KeyReport", "UnsafeCheckpointError", "convert", "converted_card"]
