"""A fine-tuning run from its data: the trainer; then metrics of held-out rows, results.json and the model card."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_utils import PredictionOutput

from ..hub.cards import fine_tuned_card
from ..models.front_ends import FrontEnd
from ..version import package_versions
from .arguments import FineTuningArguments
from .data import FineTuningData
from .fixmatch import FixMatchTrainer
from .labels import labelled_rows
from .metrics import write_confusion_matrix
from .models import make_classifier
from .trainer import FineTuningTrainer

logger = logging.getLogger(__name__)

SPEED = ("_runtime", "_per_second")  # endings of metrics that are in results.json but not on the card


def fine_tuning_trainer(
    model: PreTrainedModel,
    args: FineTuningArguments,
    data: FineTuningData,
    feature_extractor: FrontEnd,
    callbacks: Sequence[TrainerCallback] = (),
) -> FineTuningTrainer:
    """Trainer for a run's data: a [`FixMatchTrainer`] where they have unlabelled clips, else a [`FineTuningTrainer`].

    Args:
        model: Of [`make_classifier`], with the classes of `data.targets`.
        args: Training arguments.
        data: Of [`fine_tuning_data`].
        feature_extractor: Normalises and pads; saved with the model.
        callbacks: Further callbacks.

    Raises:
        ValueError: see [`FineTuningTrainer`] and [`FixMatchTrainer`].
    """
    evaluated = data.held_out.get("eval")
    if evaluated is None and args.process_index == 0:
        logger.warning(
            "There are no rows to evaluate on during training: the last weights are kept, not the best, and whether "
            "they are better than a classifier of the frozen encoder is not known."
        )
    if data.fixmatch is None or data.unlabelled is None:
        return FineTuningTrainer(model, args, data.train, feature_extractor, evaluated, callbacks)
    return FixMatchTrainer(
        model, args, data.train, feature_extractor, data.unlabelled, data.fixmatch, evaluated, callbacks=callbacks
    )


def save_results(
    trainer: FineTuningTrainer, data: FineTuningData, base_model: str, random_weights: bool = False
) -> dict[str, Any]:
    """Evaluate a trained classifier on its held-out rows, and write what there is to know about the run.

    Writes `results.json`, the model card `README.md` and, for one class per clip, `confusion_matrix.png` (of the test
    rows, else of the evaluation rows; needs matplotlib) into `args.output_dir`. Call it on all processes; the first one
    writes.

    Args:
        trainer: After [`FineTuningTrainer.train`].
        data: What it was trained on.
        base_model: Folder or repository of the encoder that was fine-tuned.
        random_weights: Whether training started from random weights in an encoder of that configuration.

    Returns:
        What `results.json` holds: metrics of each held-out part under `results`, with settings, clips and versions.
    """
    predictions = {name: trainer.predict(part, metric_key_prefix=name) for name, part in data.held_out.items()}
    tree = result_tree(trainer, data, predictions, base_model, random_weights)
    if not trainer.is_world_process_zero():
        return tree
    args, targets = trainer.hub_args, data.targets
    output = Path(str(args.output_dir))
    (output / "results.json").write_text(json.dumps(tree, indent=2))
    if predictions and targets.problem_type == "single_label_classification":
        last: Any = next(iter(predictions.values()))  # of the test rows, where there are any
        path = output / "confusion_matrix.png"
        write_confusion_matrix(path, last.label_ids, last.predictions.argmax(axis=1), targets.names)
    card = fine_tuned_card(
        base_model=base_model,
        data=data.source,
        clips=len(data.train),
        problem_type=targets.problem_type,
        label_names=targets.names,
        settings=tree["settings"],
        results={name: round(value, 4) for name, value in tree["results"].items() if not name.endswith(SPEED)},
        repo_id=trainer.repo_id if args.push_to_hub else None,
        dataset=data.dataset_name,
        random_weights=random_weights,
        encoder_type=trainer.adapter.base.config.model_type,
        has_code=trainer.model._auto_class is not None,
    )
    card.save(output / "README.md")
    return tree


def result_tree(
    trainer: FineTuningTrainer,
    data: FineTuningData,
    predictions: Mapping[str, PredictionOutput],
    base_model: str,
    random_weights: bool,
) -> dict[str, Any]:
    """Metrics, settings, numbers of clips and versions of a run."""
    return {
        "model": base_model,
        "random_weights": random_weights,
        "data": data.source,
        "problem_type": data.targets.problem_type,
        "label_names": data.targets.names,
        "clips": {"train": len(data.train)} | {name: len(part) for name, part in data.held_out.items()},
        "results": {name: value for one in predictions.values() for name, value in (one.metrics or {}).items()},
        "before_and_after_training": comparison._asdict() if (comparison := trainer.frozen_comparison()) else None,
        "settings": data.settings | trainer.settings(),
        "versions": package_versions(),
        "skipped": data.skipped,
    }


def fine_tune(
    encoder: PreTrainedModel,
    feature_extractor: FrontEnd,
    dataset: Dataset,
    rows: np.ndarray,
    labels: np.ndarray,
    number_of_classes: int,
    args: FineTuningArguments,
) -> PreTrainedModel:
    """Train a copy of the encoder and a new linear layer on labelled clips, by cross-entropy.

    `args.seed` decides the initial weights of the layer, the order and the augmentation, so equal arguments give equal
    weights; it is set as the global seed. With `logging_strategy="no"`, nothing is printed either.

    Args:
        encoder: Left as it is; parameters that are frozen in it stay frozen in the copy.
        feature_extractor: Normalises and pads.
        dataset: Log-mels of [`prepare`]; a recording longer than `max_length` gives a random window at each visit.
        rows: Rows to train on (n,) int.
        labels: Class numbers (clips,) int, one for each row of `dataset`.
        number_of_classes: Outputs of the linear layer.
        args: Training arguments.

    Returns:
        The trained classifier, on `args.device`; its encoder is `.base_model`.

    Raises:
        EncoderError: an encoder that does not meet the contract of its adapter.
        ValueError: no rows, labels that do not fit, or a setting that the encoder does not have.
    """
    train_dataset = labelled_rows(dataset, rows, labels, number_of_classes)
    set_seed(args.seed)
    model = make_classifier(
        encoder, number_of_classes, feature_extractor, problem_type="single_label_classification",
        **args.model_settings(encoder),
    )  # fmt: skip
    trainer = FineTuningTrainer(model, args, train_dataset, feature_extractor)
    if args.logging_strategy == "no":
        trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


__all__ = ["fine_tune", "fine_tuning_trainer", "save_results"]
