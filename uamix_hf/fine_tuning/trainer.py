"""transformers' Trainer for labelled clips: an encoder and a linear layer on its pooled output, trained together."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn import functional as F
from transformers import EvalPrediction, PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_utils import EvalLoopOutput

from ..data import LengthBucketSampler
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEModel
from ..training.arguments import check_metric, direction
from ..training.encoders import EncoderAdapter
from ..training.parameter_groups import layer_rates, parameter_groups
from ..training.trainer import LengthBucketTrainer
from .arguments import FineTuningArguments
from .batches import ClassBalancedSampler, FineTuningCollator
from .labels import labelled_rows
from .metrics import best_metric, make_compute_metrics
from .models import freeze, make_classifier
from .predictions import predict_logits


class FineTuningTrainer(LengthBucketTrainer):
    """
    Training with labels (method.md 1.7 and 1.8): batches of similar length, augmented; a learning rate for each depth
    of the encoder; evaluation on whole recordings, without augmentation; the best model at the end.

    In regression, targets are standardised by the training rows for the loss, and the linear layer is rescaled after
    training, so that the model gives the column's own unit, as metrics do all the time. Checkpoints are of before.

    Args:
        model: Of [`make_classifier`], whose configuration names the `problem_type` and the classes.
        train_dataset, eval_dataset: Log-mels with `labels`, such as [`with_labels`] gives.
        feature_extractor: Normalises and pads; saved with each checkpoint.

    Raises:
        ValueError: classes are to be balanced, or labels smoothed, where there are none; more blocks are frozen than
            there are; or what is to choose the best model is not measured.
    """

    args: FineTuningArguments
    model: AudioMAEForAudioClassification

    def __init__(
        self,
        model: AudioMAEForAudioClassification,
        args: FineTuningArguments,
        train_dataset: Dataset,
        feature_extractor: AudioMAEFeatureExtractor,
        eval_dataset: Dataset | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        config: Any = model.config
        self.problem_type: str = config.problem_type
        self.feature_extractor = feature_extractor
        self.location, self.scale = 0.0, 1.0
        self.standardised = True
        names = [config.id2label[number] for number in range(config.num_labels)]
        figures = make_compute_metrics(self.problem_type, names)
        if self.problem_type != "single_label_classification" and args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor}: of {self.problem_type}, no clip has one class "
                "from which to take a part."
            )
        if args.dataloader_drop_last and len(train_dataset) < args.train_batch_size * args.world_size:
            raise ValueError(
                f"dataloader_drop_last: {len(train_dataset)} clips do not fill one batch of {args.world_size} x "
                f"{args.train_batch_size}, so nothing would be trained on. Lower per_device_train_batch_size."
            )
        if self.problem_type == "regression":
            if args.class_balanced:
                raise ValueError("class_balanced: a regression has no classes to balance.")
            labels = np.asarray(train_dataset["labels"][:], np.float64)
            self.location, self.scale = float(labels.mean()), float(labels.std())
        super().__init__(
            model=model,
            args=settle_evaluation(args, self.problem_type, measured(figures, eval_dataset, config.num_labels)),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=FineTuningCollator(
                feature_extractor,
                config.max_length,
                args,
                config.num_labels if self.problem_type == "single_label_classification" else None,
            ),
            compute_metrics=figures,
            processing_class=feature_extractor,
            callbacks=list(callbacks),
        )
        # Last: a model that cannot be trained so stays as it was.
        self.frozen = (
            [model.audio_mae]
            if args.linear_probe
            else freeze(model.audio_mae, args.frozen_blocks(model.config.num_hidden_layers))
        )
        if args.linear_probe:
            model.audio_mae.requires_grad_(False)

    def make_sampler(self, dataset: Any, batch_size: int, seed: int) -> LengthBucketSampler:
        if self.args.class_balanced:
            return ClassBalancedSampler(dataset["length"][:], np.asarray(dataset["labels"][:]), batch_size, seed)
        return super().make_sampler(dataset, batch_size, seed)

    # --- training

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.standardise(True)
        try:
            return super().train(*args, **kwargs)
        finally:
            self.standardise(False)

    @torch.no_grad()
    def standardise(self, wanted: bool) -> None:
        """Has the linear layer give standardised numbers, or the column's own unit, as outside of training."""
        if wanted == self.standardised:
            return
        layer = self.model.classifier
        if wanted:
            layer.bias.sub_(self.location).div_(self.scale)
            layer.weight.div_(self.scale)
        else:
            layer.weight.mul_(self.scale)
            layer.bias.mul_(self.scale).add_(self.location)
        self.standardised = wanted

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a group per learning rate and weight decay; the linear layer has `learning_rate`."""
        if self.optimizer is None:
            args, adapter = self.args, EncoderAdapter(self.model.audio_mae)
            rates = layer_rates(adapter.layer_ids(), len(adapter.layers) + 1, args.learning_rate, args.layer_decay)
            groups = parameter_groups(
                self.model, "audio_mae.", rates, args.weight_decay, args.learning_rate, args.weight_decay
            )
            kind, options = self.get_optimizer_cls_and_kwargs(args, self.model)
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Mean over the batch, float32, of the cross-entropy, against class numbers (batch,) or shares (batch,
        classes) with `smoothing`; of the binary cross-entropies; or of the squared error of standardised numbers."""
        logits = logits.float()
        if self.problem_type == "single_label_classification":
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if self.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        return F.mse_loss(logits[:, 0], (labels.float() - self.location) / self.scale)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        for module in self.frozen:
            module.eval()  # the Trainer puts the whole model into training mode at each step
        outputs = model(inputs["input_values"], attention_mask=inputs["attention_mask"])
        loss = self.loss(outputs.logits, inputs["labels"], self.args.label_smoothing_factor)
        return (loss, outputs) if return_outputs else loss

    # --- evaluation

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Each process takes a part of the recordings; nothing random is drawn, so that training goes on untouched."""
        dataset = dataloader.dataset
        rows = np.arange(len(dataset))[self.args.process_index :: self.args.world_size]
        mine = predict_logits(self.model, self.feature_extractor, dataset, rows, self.args.eval_batch_size)
        logits = np.empty((len(dataset), mine.shape[1]), np.float32)
        for part, values in gather_object([(rows, mine)]):
            logits[part] = values
        labels = np.asarray(dataset["labels"][:])
        unit, plain = logits, logits
        if self.problem_type == "regression" and self.standardised:
            unit = logits * self.scale + self.location
        elif self.problem_type == "regression":
            plain = (logits - self.location) / self.scale
        metrics = {"loss": self.loss(torch.from_numpy(plain), torch.from_numpy(labels)).item()}
        metrics |= self.compute_metrics(EvalPrediction(predictions=unit, label_ids=labels))  # type: ignore[misc]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=unit, label_ids=labels, metrics=metrics, num_samples=len(dataset))


def measured(figures: Callable[[EvalPrediction], dict[str, float]], dataset: Dataset | None, outputs: int) -> list[str]:
    """Names of what will be measured, [] without rows: from figures of made-up predictions. What cannot be measured is
    an error so before training, and not after the first epoch."""
    if dataset is None:
        return []
    if len(dataset) == 0:
        raise ValueError("There are no rows to evaluate on.")
    made_up = np.random.default_rng(0).standard_normal((len(dataset), outputs))
    return ["loss", *figures(EvalPrediction(predictions=made_up, label_ids=np.asarray(dataset["labels"][:])))]


def settle_evaluation(args: FineTuningArguments, problem_type: str, names: Sequence[str]) -> FineTuningArguments:
    """Arguments whose best model goes by the problem's metric, or that evaluate nothing.

    Args:
        names: Of what is measured; none where there are no rows to evaluate on.

    Raises:
        ValueError: a metric that is not measured, or arguments of an evaluation without rows for it.
    """
    if not names or args.eval_strategy == "no":
        given = ("metric_for_best_model", "greater_is_better", "eval_on_start", "eval_delay")
        idle = [name for name in given if args.is_given(name)] + ["save_strategy"] * (args.save_strategy == "best")
        if idle:
            raise ValueError(
                f"{', '.join(idle)}: nothing is evaluated. Give rows to evaluate on (eval_fraction, eval_where)."
            )
        return dataclasses.replace(
            args, eval_strategy="no", do_eval=False, eval_steps=None, load_best_model_at_end=False,
            metric_for_best_model=None, greater_is_better=None,
        )  # fmt: skip
    name = best_metric(problem_type)[0] if args.metric_for_best_model == "auto" else args.metric_for_best_model
    if name is None:
        return args
    check_metric(name, names)
    greater = direction(name, args.greater_is_better)
    return dataclasses.replace(args, metric_for_best_model=name, greater_is_better=greater)


def fine_tune(
    encoder: AudioMAEModel,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    rows: np.ndarray,
    labels: np.ndarray,
    number_of_classes: int,
    args: FineTuningArguments,
) -> AudioMAEForAudioClassification:
    """Trains a copy of the encoder and a new linear layer on labelled clips, by cross-entropy.

    `args.seed` decides the layer's first weights, the order and the augmentation, so that equal arguments give equal
    weights; it is set as the global seed. A run with `logging_strategy="no"` prints nothing either.

    Args:
        encoder: Left as it is; parameters that are frozen in it stay frozen in the copy.
        dataset: Log-mels as of [`prepare`]; a recording longer than `max_length` gives a random window at a time.
        rows, labels, number_of_classes: See [`labelled_rows`].

    Returns:
        The trained classifier, on `args.device`; its encoder is `.audio_mae`.

    Raises:
        TypeError, ValueError: see [`make_classifier`] and [`labelled_rows`].
    """
    train_dataset = labelled_rows(dataset, rows, labels, number_of_classes)
    set_seed(args.seed)
    model = make_classifier(
        encoder, number_of_classes, problem_type="single_label_classification", **args.model_settings()
    )
    trainer = FineTuningTrainer(model, args, train_dataset, feature_extractor)
    if args.logging_strategy == "no":
        trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


__all__ = ["FineTuningTrainer", "fine_tune"]
