"""Model cards, generated from the settings and results of a run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..models.conversion import AUDIOMAE_LICENCE
from ..version import package_versions

TEMPLATES = Path(__file__).parent / "templates"
OBJECTIVE_TAGS = {"uamix": ["uamix", "contrastive-learning"], "pseudo_labels": ["pseudo-labels"]}
# Metrics that the Hub shows beside a model, by their name in the results: their type there, and their name in words.
METRICS = {
    "accuracy": ("accuracy", "accuracy"),
    "balanced_accuracy": ("accuracy", "balanced accuracy"),
    "mean_average_precision": ("mAP", "mean average precision"),
    "micro_average_precision": ("mAP", "micro average precision"),
    "mse": ("mse", "mean squared error"),
    "mae": ("mae", "mean absolute error"),
    "pearson": ("pearsonr", "Pearson correlation"),
}
# Where the Python code of a card loads from without a repository: the card's own folder, wherever that is moved to.
HERE = "."
PYTHON = re.compile(r"```python\n.*?```", re.DOTALL)
PLACE = re.compile(r"""((?:from_pretrained\(|model=)")[^"]*(?=")""")
SPLITS = {"test": "test", "eval": "validation"}  # by the prefix of a metric
TASK: dict[str, Any] = {"task_type": "audio-classification", "task_name": "Audio classification"}
FEW_SHOT = TASK | {"task_name": "Few-shot audio classification"}


@dataclass(frozen=True)
class CardEvaluation:
    """Scores before and after tuning, for a card.

    Args:
        data: Name of the labelled recordings.
        text: Description of them, in a sentence without its full stop.
        rows: Protocol, metric, score before, score after and difference of each measurement, in words.
        scores: Score after tuning of each measurement, a fraction in [0, 1].
    """

    data: str
    text: str
    rows: list[list[str]]
    scores: list[float]


def placed_at(card: str, repo_id: str) -> str:
    """Text of a card whose Python code loads from a repository, wherever it loaded from before.

    Args:
        card: Text of the card.
        repo_id: Repository on the Hub, with its owner.
    """

    def placed(block: re.Match[str]) -> str:
        lines = [line for line in block[0].splitlines(keepends=True) if not line.startswith(f'# "{HERE}"')]
        return PLACE.sub(rf"\g<1>{repo_id}", "".join(lines))

    return PYTHON.sub(placed, card)


def base_licence(base_model: str | None) -> str | None:
    """Licence that a base model's card declares, which a tuned model inherits; None where no card states one.

    Args:
        base_model: Folder or repository; None for a model object.
    """
    if base_model is None:
        return None
    path = Path(base_model)
    try:
        # A folder without a card must not get that of a repository which has its name.
        card = ModelCard.load(path / "README.md" if path.is_dir() else base_model, ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError):  # the Hub's errors are OSErrors; what is no card is a ValueError
        return None
    return card.data.license


def tuned_card(
    base_model: str | None,
    data: str,
    clips: int,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    repo_id: str | None = None,
    dataset: str | None = None,
    objective: str = "uamix",
    random_weights: bool = False,
    evaluations: Sequence[CardEvaluation] = (),
    adapter: str | None = None,
    encoder_type: str = "audio_mae",
    has_code: bool = True,
) -> ModelCard:
    """Card of a tuned encoder.

    Args:
        base_model: Folder or repository that was tuned; None for a model object that was loaded from nowhere.
        data: Name of the training data.
        clips: Number of training clips.
        settings: All hyper-parameters by name.
        results: Values logged during training, by name.
        repo_id: Repository that it is pushed to, with its owner, from which the card's code loads; by default it loads
            from the card's own folder.
        dataset: Hub id of the training data, if it has one.
        objective: `"uamix"` or `"pseudo_labels"`.
        random_weights: Whether training started from random weights; the card's metadata then name no base model, but
            keep its licence to be safe.
        evaluations: Measurements before and after tuning; those after tuning are also metadata for the Hub.
        adapter: Kind of the adapters that were tuned and merged, such as `"LORA"`; None for the weights themselves.
        encoder_type: `model_type` of the encoder.
        has_code: Whether the folder holds the code of the model, whose `pooler_output` is the embedding.
    """
    card_data = trained_card_data(base_model, dataset, random_weights)
    card_data.pipeline_tag = "feature-extraction"
    card_data.tags = ["audio", encoder_type.replace("_", "-"), *OBJECTIVE_TAGS[objective], "few-shot"]
    card_data.tags += [] if adapter is None else [adapter.lower(), "peft"]
    scores = [
        EvalResult(
            **FEW_SHOT, dataset_type="custom", dataset_name=evaluation.data, metric_name=row[0],
            metric_type="mAP" if "precision" in row[1] else "accuracy", metric_value=score,
        )
        for evaluation in evaluations
        for row, score in zip(evaluation.rows, evaluation.scores, strict=True)
    ]  # fmt: skip
    add_scores(card_data, scores, repo_id or f"{base_name(base_model)}, tuned")
    return trained_card(
        "tuned.md", card_data, base_model, repo_id, settings, results,
        objective=objective, random_weights=random_weights, data=data, clips=clips, adapter=adapter, has_code=has_code,
        evaluations=[vars(one) | {"rows": [list(map(cell_text, row)) for row in one.rows]} for one in evaluations],
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
    encoder_type: str = "audio_mae",
    has_code: bool = True,
) -> ModelCard:
    """Card of a classifier, or of a regression model, that was fine-tuned on labelled clips.

    Args:
        base_model: Folder or repository that was fine-tuned.
        data: Name of the training data.
        clips: Number of training clips.
        problem_type: As in the model's configuration.
        label_names: Class names, or the name of the predicted value.
        settings: All hyper-parameters by name, with `encoder`, `embedding_layer` and `pooling`.
        results: Metrics by name. Those of `make_compute_metrics` that are named as the Trainer names them, with the
            prefix `test_` or (on rows that may have chosen the best checkpoint) `eval_`, are also metadata for the Hub.
        repo_id: See [`tuned_card`].
        dataset: See [`tuned_card`].
        random_weights: See [`tuned_card`].
        encoder_type: `model_type` of the encoder.
        has_code: Whether the folder holds the code of the model, so that it loads without this package.
    """
    card_data = trained_card_data(base_model, dataset, random_weights)
    card_data.pipeline_tag = "audio-classification"
    card_data.tags = ["audio", encoder_type.replace("_", "-"), "audio-classification"]
    add_scores(card_data, eval_results(results, data, dataset), repo_id or f"{base_name(base_model)}, fine-tuned")
    return trained_card(
        "fine_tuned.md", card_data, base_model, repo_id, settings, results,
        problem_type=problem_type, label_names=list(label_names), random_weights=random_weights, data=data, clips=clips,
        encoder_type=encoder_type, has_code=has_code,
    )  # fmt: skip


def eval_results(results: Mapping[str, Any], data: str, dataset: str | None) -> list[EvalResult]:
    """Metadata of the metrics that the Hub shows, those on test rows first.

    Args:
        results: Metrics by name.
        data: Name of the data.
        dataset: Hub id of the data, if it has one.
    """
    return [
        EvalResult(
            **TASK, dataset_type=dataset or "custom", dataset_name=dataset or data, dataset_split=split,
            metric_type=kind, metric_name=text, metric_value=results[f"{prefix}_{metric}"],
        )
        for prefix, split in SPLITS.items()
        for metric, (kind, text) in METRICS.items()
        if f"{prefix}_{metric}" in results
    ]  # fmt: skip


def add_scores(card_data: ModelCardData, scores: list[EvalResult], name: str) -> None:
    """Puts measured scores into a card's metadata, as `model-index`; without scores there is none.

    Args:
        card_data: Metadata to change.
        scores: Measured scores.
        name: Name of the model, of which an owner is left out.
    """
    if scores:
        card_data.model_name = name.split("/")[-1]
        card_data.eval_results = scores


def base_name(source: str | None) -> str:
    """Name of a base model for readers: a repository's id, a folder's last part, which is all that others can have."""
    if source is None:
        return "an encoder"
    return Path(source).resolve().name if Path(source).exists() else source


def trained_card_data(base_model: str | None, dataset: str | None, random_weights: bool) -> ModelCardData:
    """Metadata that all cards of trained models have; the arguments are those of [`tuned_card`]."""
    local = base_model is None or Path(base_model).exists()
    return ModelCardData(
        license=base_licence(base_model), library_name="transformers",
        base_model=None if local or random_weights else base_model, datasets=[dataset] if dataset else None,
    )  # fmt: skip


def trained_card(
    template: str,
    card_data: ModelCardData,
    base_model: str | None,
    repo_id: str | None,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    **more: Any,
) -> ModelCard:
    """Card from a template, with what both kinds of cards have.

    Args:
        template: Name of the template's file.
        card_data: Metadata.
        base_model: See [`tuned_card`].
        repo_id: See [`tuned_card`].
        settings: See [`tuned_card`].
        results: See [`tuned_card`].
        **more: Further values for this template.
    """
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
    """Names and values as cells of a table; names of classes come from the data and may hold anything."""
    return {cell_text(name): cell_text(value) for name, value in rows.items()}


def cell_text(value: Any) -> str:
    """A value as the text of a table cell, on one line."""
    return " ".join(str(value).split()).replace("|", "\\|")


def describe_licence(licence: str | None) -> str:
    """A licence in words, with where it comes from."""
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
