"""Model cards, generated from what was really run."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..models.conversion import AUDIOMAE_LICENCE
from ..version import package_versions

TEMPLATES = Path(__file__).parent / "templates"
OBJECTIVE_TAGS = {"uamix": ["uamix", "contrastive-learning"], "pseudo_labels": ["pseudo-labels"]}
# What the Hub shows beside a model, by the name of the figure: its kind there, and how it reads.
FIGURES = {
    "accuracy": ("accuracy", "accuracy"),
    "balanced_accuracy": ("accuracy", "balanced accuracy"),
    "mean_average_precision": ("mAP", "mean average precision"),
    "micro_average_precision": ("mAP", "micro average precision"),
    "mse": ("mse", "mean squared error"),
    "mae": ("mae", "mean absolute error"),
    "pearson": ("pearsonr", "Pearson correlation"),
}
# Where a card's lines of Python load from, if that is no repository: its own folder, wherever that is moved to.
HERE = "."
PYTHON = re.compile(r"```python\n.*?```", re.DOTALL)
PLACE = re.compile(r"""((?:from_pretrained\(|model=)")[^"]*(?=")""")
SPLITS = {"test": "test", "eval": "validation"}  # by the prefix of the figure


def placed_at(card: str, repo_id: str) -> str:
    """Text of a card whose lines of Python load from this repository, wherever they loaded from."""

    def placed(block: re.Match[str]) -> str:
        lines = [line for line in block[0].splitlines(keepends=True) if not line.startswith(f'# "{HERE}"')]
        return PLACE.sub(rf"\g<1>{repo_id}", "".join(lines))

    return PYTHON.sub(placed, card)


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
        repo_id: Repository it is pushed to, with its owner, for the lines on loading; else they load from the card's
            own folder. dataset: Hub id of the data, if it has one.
        objective: `"uamix"` or `"pseudo_labels"`. random_weights: Whether training started from random weights; the
            card then names no base model to the Hub, but keeps its licence to be safe.
    """
    card_data = trained_card_data(base_model, dataset, random_weights)
    card_data.pipeline_tag = "feature-extraction"
    card_data.tags = ["audio", "audio-mae", *OBJECTIVE_TAGS[objective], "few-shot"]
    return trained_card(
        "tuned.md", card_data, base_model, repo_id, settings, results,
        objective=objective, random_weights=random_weights, data=data, clips=clips,
    )  # fmt: skip


def fine_tuned_card(
    base_model: str,
    data: str,
    clips: int,
    problem_type: str,
    label_names: Sequence[str],
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    repo_id: str | None = None,
    dataset: str | None = None,
    random_weights: bool = False,
) -> ModelCard:
    """Card of a classifier, or of a model of one value, that was fine-tuned on labelled clips.

    Args:
        base_model: Folder or repository that was fine-tuned. data: Name of the training data. clips: How many.
        problem_type: As in the model's configuration. label_names: Of the classes, or of the value.
        settings: Every hyper-parameter that was used.
        results: Figures measured in the run; those of `make_compute_metrics` that are named as the Trainer does, with
            the prefix `test_` or (of the rows that may have chosen the best checkpoint) `eval_`, also go to the Hub.
        repo_id, dataset, random_weights: See [`tuned_card`].
    """
    card_data = trained_card_data(base_model, dataset, random_weights)
    card_data.pipeline_tag = "audio-classification"
    card_data.tags = ["audio", "audio-mae", "audio-classification"]
    scores = eval_results(results, data, dataset)
    if scores:
        card_data.model_name = (repo_id or f"{base_name(base_model)}, fine-tuned").split("/")[-1]
        card_data.eval_results = scores
    return trained_card(
        "fine_tuned.md", card_data, base_model, repo_id, settings, results,
        problem_type=problem_type, label_names=list(label_names), random_weights=random_weights, data=data, clips=clips,
    )  # fmt: skip


def eval_results(results: Mapping[str, Any], data: str, dataset: str | None) -> list[EvalResult]:
    """The figures that the Hub shows, of test rows first."""
    return [
        EvalResult(
            task_type="audio-classification", task_name="Audio classification", dataset_type=dataset or "custom",
            dataset_name=dataset or data, dataset_split=split, metric_type=kind, metric_name=text,
            metric_value=results[f"{prefix}_{figure}"],
        )
        for prefix, split in SPLITS.items()
        for figure, (kind, text) in FIGURES.items()
        if f"{prefix}_{figure}" in results
    ]  # fmt: skip


def base_name(source: str) -> str:
    """A repository as it is called, a folder without what is before it: nobody else has that."""
    return Path(source).resolve().name if Path(source).exists() else source


def trained_card_data(base_model: str, dataset: str | None, random_weights: bool) -> ModelCardData:
    local = Path(base_model).exists()
    return ModelCardData(
        license=base_licence(base_model), library_name="transformers",
        base_model=None if local or random_weights else base_model, datasets=[dataset] if dataset else None,
    )  # fmt: skip


def trained_card(
    template: str,
    card_data: ModelCardData,
    base_model: str,
    repo_id: str | None,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    **more: Any,
) -> ModelCard:
    """A card of what this package trained: what both kinds say, and `more` for the template of one."""
    return ModelCard.from_template(
        card_data,
        str(TEMPLATES / template),
        place=repo_id if repo_id and "/" in repo_id else HERE,
        base_model=base_name(base_model),
        licence=describe_licence(card_data.license),
        settings=table_cells(settings),
        results=table_cells(results),
        versions=package_versions(),
        **more,
    )


def table_cells(rows: Mapping[str, Any]) -> dict[str, str]:
    """Names and values that may hold what ends a cell of a table: names of classes come from the data."""
    return {cell_text(name): cell_text(value) for name, value in rows.items()}


def cell_text(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def describe_licence(licence: str | None) -> str:
    if licence is None:
        return (
            "unknown: the base model's card states none. Weights converted from Audio-MAE are to be taken as CC BY-NC "
            "4.0"
        )
    if licence != AUDIOMAE_LICENCE:
        return f"{licence}, inherited from the base model"
    return (
        f"{licence}, inherited from the base model. Where that descends from Audio-MAE, its source is contradictory "
        "about the licence, and this is the stricter reading"
    )


__all__ = ["base_licence", "fine_tuned_card", "placed_at", "tuned_card"]
