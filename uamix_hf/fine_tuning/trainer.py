"""Fine-tuning on labelled clips: a Trainer for an encoder with a linear layer on its pooled output."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from ..data import LengthBucketSampler
from ..hub.push import push_folder
from ..models.front_ends import FrontEnd
from ..training.parameter_groups import layer_rates, parameter_groups
from .arguments import MODEL_RATES, FineTuningArguments
from .batches import ClassBalancedSampler, FineTuningCollator
from .frozen_start import FrozenStartTrainer
from .head_init import resolve_head_init
from .metrics import make_compute_metrics
from .model_selection import measured, settle_evaluation
from .models import adapter_of, freeze, longest_window
from .predictions import predict_logits


class FineTuningTrainer(FrozenStartTrainer):
    """Trainer that fine-tunes an encoder on labelled clips (docs/concepts/method.md, Fine-tuning and Recipes).

    Batches hold augmented clips of similar length; the learning rate decays with the depth of the layer. Evaluation is
    on whole recordings, without augmentation, and the best model is loaded at the end.

    In regression, targets are standardised by the training rows for the loss. The linear layer is rescaled after
    training, so that the model predicts in the unit of the column, as metrics are at any time; checkpoints hold the
    standardised layer.

    ```python
    trainer = FineTuningTrainer(model, args, train_dataset, feature_extractor, eval_dataset)
    trainer.train()
    trainer.save_model()
    print(trainer.predict(test_dataset).metrics)
    ```

    Args:
        model: Of [`make_classifier`]; its configuration has the `problem_type` and the class names.
        args: Training arguments. With `push_to_hub`, [`push_to_hub`] uploads the finished model; checkpoints are not
            uploaded.
        train_dataset: Log-mels with `labels`, of [`with_labels`].
        feature_extractor: Normalises and pads; saved with the model, with `truncation` for pipelines.
        eval_dataset: Log-mels with `labels` to evaluate on during training; without it, the last weights are kept.
        callbacks: Further callbacks.

    Raises:
        ValueError: balanced classes or smoothed labels in a problem that has none, more frozen layers than the encoder
            has, or a `metric_for_best_model` that is not measured.
    """

    args: FineTuningArguments
    model: Any

    def __init__(
        self,
        model: Any,
        args: FineTuningArguments,
        train_dataset: Dataset,
        feature_extractor: FrontEnd,
        eval_dataset: Dataset | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        config: Any = model.config
        self.problem_type: str = config.problem_type
        self.feature_extractor = feature_extractor
        self.adapter = adapter_of(model)
        self.location, self.scale = 0.0, 1.0
        self.standardised = True
        is_new = getattr(model, "has_new_head", False)
        self.replaces_head = args.head_init is not None and not is_new
        args = dataclasses.replace(args, head_init=resolve_head_init(args.head_init, self.problem_type, is_new))
        self.hub_args, args = args, args.without_hub()
        names = [config.id2label[number] for number in range(config.num_labels)]
        compute_metrics = make_compute_metrics(self.problem_type, names)
        if self.problem_type != "single_label_classification" and args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor}: labels of {self.problem_type} "
                "cannot be smoothed."
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
            args=settle_evaluation(args, self.problem_type, measured(compute_metrics, eval_dataset, config.num_labels)),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=FineTuningCollator(
                feature_extractor,
                longest_window(model, feature_extractor),
                args,
                config.num_labels if self.problem_type == "single_label_classification" else None,
            ),
            compute_metrics=compute_metrics,
            processing_class=with_truncation(feature_extractor),
            callbacks=list(callbacks),
        )
        # Last: a model that cannot be trained so stays as it was.
        self.frozen = (
            [model.base_model]
            if args.linear_probe
            else freeze(model.base_model, args.frozen_blocks(len(self.adapter.layers)), self.adapter.layers_path)
        )
        if args.linear_probe:
            model.base_model.requires_grad_(False)

    def make_sampler(self, dataset: Any, batch_size: int, seed: int) -> LengthBucketSampler:
        if self.args.class_balanced:
            return ClassBalancedSampler(dataset["length"][:], np.asarray(dataset["labels"][:]), batch_size, seed)
        return super().make_sampler(dataset, batch_size, seed)

    def base_config(self) -> Any:
        return self.adapter.base.config

    # --- what comes out

    @property
    def repo_id(self) -> str:
        """Repository that the model is uploaded to, unless another one is given."""
        return self.hub_args.hub_model_id or Path(str(self.args.output_dir)).resolve().name

    def settings(self) -> dict[str, Any]:
        """Settings of the training, for results and model card."""
        unused = [name for name in MODEL_RATES if not hasattr(self.model.config, name)]
        unused += [] if self.args.head_init == "logistic" else ["logistic_c"]
        settings = {name: value for name, value in self.args.own_settings().items() if name not in unused}
        return settings | {
            "encoder": type(self.adapter.base).__name__,
            "embedding_layer": len(self.adapter.layers),
            "pooling": self.adapter.pooling,
            "max_steps": self.args.max_steps,
            "seed": self.args.seed,
            "updates": self.state.global_step,
            "processes": self.args.world_size,
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the classifier, its code and the feature extractor, for `from_pretrained` and pipelines.

        Args:
            output_dir: Folder; `args.output_dir` by default.
        """
        if _internal_call:  # of a checkpoint
            super().save_model(output_dir, _internal_call)
        elif self.is_world_process_zero():
            folder = output_dir or str(self.args.output_dir)
            self.model.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)  # type: ignore[union-attr]

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload the fine-tuned model",
    ) -> str | None:
        """Upload what [`save_model`] and [`save_results`] wrote into `args.output_dir`; checkpoints stay local.

        Args:
            repo_id: Repository; `args.hub_model_id`, or the name of the output folder, by default.
            private: Whether the repository is made private; `args.hub_private_repo` by default.
            token: Access token; `args.hub_token`, or the one that is logged in, by default.
            commit_message: Message of the commit.

        Returns:
            Address of the commit; None on all processes but the first.
        """
        if not self.is_world_process_zero():
            return None
        args = self.hub_args
        private = args.hub_private_repo if private is None else private
        folder = str(self.args.output_dir)
        return push_folder(folder, repo_id or self.repo_id, private, token or args.hub_token, commit_message)

    # --- training

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.standardise(True)
        try:
            output = super().train(*args, **kwargs)
        finally:
            self.model.has_new_head = False
            self.standardise(False)
        self.report_comparison()
        return output

    @torch.no_grad()
    def standardise(self, wanted: bool) -> None:
        """Let the linear layer predict standardised values, as in training, or values in the unit of the column."""
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
            args, adapter = self.args, self.adapter
            rates = layer_rates(adapter.layer_ids(), len(adapter.layers) + 1, args.learning_rate, args.layer_decay)
            groups = parameter_groups(
                self.model, f"{self.model.base_model_prefix}.", rates,
                args.weight_decay, args.learning_rate, args.weight_decay,
            )  # fmt: skip
            kind, options = self.get_optimizer_cls_and_kwargs(args, self.model)
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Mean loss over the batch: cross-entropy, binary cross-entropy or squared error, by the problem type.

        Args:
            logits: (batch, num_labels).
            labels: Class numbers (batch,) or class probabilities (batch, classes), 0/1 (batch, classes), or numbers
                (batch,), which are standardised.
            smoothing: Label smoothing of the cross-entropy.

        Returns:
            float32 scalar.
        """
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
        """Predict whole recordings, a part of them on each process; the random state of training is not touched."""
        dataset, size = dataloader.dataset, self.args.eval_batch_size
        logits = self.of_all_rows(
            dataset, lambda rows: predict_logits(self.model, self.feature_extractor, dataset, rows, size)
        )
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


def with_truncation(feature_extractor: Any) -> Any:
    """Copy that cuts long recordings, as those of transformers' own classifiers do, for pipelines."""
    copied = copy.copy(feature_extractor)
    copied.truncation = True
    return copied


__all__ = ["FineTuningTrainer"]
