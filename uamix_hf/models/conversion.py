"""Converts other projects' checkpoints: one module per project, each with a table of its keys."""

import inspect
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .audio_mae.convert_asit import ASIT
from .audio_mae.convert_audio_mae import AUDIOMAE, AUDIOMAE_LICENCE
from .audio_mae.convert_birdmae import BIRDMAE
from .audio_mae.convert_matpac import MATPAC
from .audio_mae.convert_passt import PASST
from .audio_mae.convert_ssast import SSAST
from .beats.convert_beats import BEATS, OPENBEATS
from .checkpoint import CheckpointError, KeyReport, UnsafeCheckpointError, find_checkpoint, read_checkpoint
from .mae_ast.convert_mae_ast import MAE_AST
from .ssamba.convert_ssamba import SSAMBA
from .system import System

SYSTEMS: dict[str, System] = {
    "asit": ASIT,
    "audiomae": AUDIOMAE,
    "beats": BEATS,
    "birdmae": BIRDMAE,
    "mae_ast": MAE_AST,
    "matpac": MATPAC,
    "openbeats": OPENBEATS,
    "passt": PASST,
    "ssamba": SSAMBA,
    "ssast": SSAST,
}
TEMPLATE = Path(__file__).parent / "templates" / "converted.md"


def convert(system: str, source: str, target: str, **options: Any) -> KeyReport:
    """Converts another project's checkpoint to a folder with safetensors, configuration, preprocessor, code and card.

    Args:
        system: Project, one of `SYSTEMS`.
        source: A file, a folder with one checkpoint, or a repository on the Hub.
        target: Folder to write.
        **options: What the project's checkpoints do not record: keyword arguments of its conversion function.

    Returns:
        The report of keys.

    Raises:
        CheckpointError: The checkpoint cannot be converted, or the project has no such option; the message names the
            file, the keys or the option, and what to do. Nothing is written.
        UnsafeCheckpointError: The file is a pickle that holds more than tensors; nothing of it was executed.
    """
    if unknown := options.keys() - set(options_of(system)):
        raise CheckpointError(
            f"{system} does not take {', '.join(sorted(unknown))}; its options are: "
            f"{', '.join(options_of(system)) or 'none'}."
        )
    path = find_checkpoint(source)
    tensors, entries = read_checkpoint(path)
    try:
        model, extractor, report = SYSTEMS[system].convert(tensors, entries, **options)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if report.missing:
        raise CheckpointError(f"{path} lacks {len(report.missing)} keys of its layout: {', '.join(report.missing)}.")
    model.save_pretrained(target)
    extractor.save_pretrained(target)
    card = converted_card(system, source, type(model).__name__, extractor.sampling_rate)
    card.save(Path(target) / "README.md")
    return report


def options_of(system: str) -> list[str]:
    """Names of the options that a project's conversion function takes."""
    parameters = inspect.signature(SYSTEMS[system].convert).parameters.values()
    return [one.name for one in parameters if one.default is not one.empty]


def converted_card(system: str, source: str, architecture: str, sampling_rate: int = 16_000) -> ModelCard:
    """Makes the card of weights that were converted from another project."""
    facts = SYSTEMS[system]
    data = ModelCardData(
        license=facts.licence, library_name="transformers", pipeline_tag="feature-extraction",
        base_model=None if Path(source).exists() else source, tags=list(facts.tags),
    )  # fmt: skip
    return ModelCard.from_template(
        data, str(TEMPLATE),
        place=".", system=system, source=Path(source).name, architecture=architecture, changes=facts.changes,
        sampling_rate=sampling_rate, licence_note=facts.licence_note, remarks=facts.remarks,
        citation=facts.citation,
    )  # fmt: skip


__all__ = [
    "AUDIOMAE_LICENCE",
    "SYSTEMS",
    "CheckpointError",
    "KeyReport",
    "UnsafeCheckpointError",
    "convert",
    "converted_card",
]
