"""Model cards, generated from what was really run."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..version import __version__

TEMPLATES = Path(__file__).parent / "templates"
# Audio-MAE's LICENSE file says CC BY-NC 4.0, its README CC BY 4.0: the stricter one binds whoever wants to be safe.
AUDIOMAE_LICENCE = "cc-by-nc-4.0"
OBJECTIVE_TAGS = {"uamix": ["uamix", "contrastive-learning"], "pseudo_labels": ["pseudo-labels"]}
PACKAGES = ("torch", "transformers", "datasets", "accelerate")


def converted_card(system: str, source: str, architecture: str) -> ModelCard:
    """Card of weights converted from another project."""
    data = ModelCardData(
        license=AUDIOMAE_LICENCE, library_name="transformers", pipeline_tag="feature-extraction",
        base_model=None if Path(source).exists() else source,
        tags=["audio", "audio-mae", "masked-autoencoder"],
    )  # fmt: skip
    return ModelCard.from_template(
        data, str(TEMPLATES / "converted.md"), system=system, source=Path(source).name, architecture=architecture
    )


def base_licence(base_model: str) -> str | None:
    """Licence that a base model's card declares; a tuned model inherits it. None where no card says."""
    path = Path(base_model)
    try:
        # A folder without a card must not get that of a repository which has its name.
        card = ModelCard.load(path / "README.md" if path.is_dir() else base_model, ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError):  # the Hub's errors are OSErrors; what is no card is a ValueError
        return None
    return card.data.license


def tuned_card(
    base_model: str,
    data: str,
    clips: int,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    repo_id: str | None = None,
    dataset: str | None = None,
    objective: str = "uamix",
    random_weights: bool = False,
) -> ModelCard:
    """Card of a tuned encoder.

    Args:
        base_model: Folder or repository that was tuned. data: Name of the training data. clips: How many.
        settings: Every hyper-parameter that was used. results: Figures measured in the run.
        repo_id: Repository it is pushed to, for the lines on loading. dataset: Hub id of the data, if it has one.
        objective: `"uamix"` or `"pseudo_labels"`. random_weights: Whether training started from random weights; the
            card then names no base model to the Hub, but keeps its licence to be safe.
    """
    local = Path(base_model).exists()
    card_data = ModelCardData(
        license=base_licence(base_model), library_name="transformers", pipeline_tag="feature-extraction",
        base_model=None if local or random_weights else base_model, datasets=[dataset] if dataset else None,
        tags=["audio", "audio-mae", *OBJECTIVE_TAGS[objective], "few-shot"],
    )  # fmt: skip
    return ModelCard.from_template(
        card_data,
        str(TEMPLATES / "tuned.md"),
        name=repo_id or "PATH/OF/THIS/FOLDER",
        base_model=Path(base_model).name if local else base_model,
        licence=card_data.license,
        objective=objective,
        random_weights=random_weights,
        data=data,
        clips=clips,
        settings=settings,
        results=results,
        versions={"uamix_hf": __version__} | {package: importlib.metadata.version(package) for package in PACKAGES},
    )
