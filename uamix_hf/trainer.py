"""The whole job of tuning: data, both stages, whitening, evaluation, card and upload."""

import copy
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerState, set_seed
from transformers.trainer_utils import TrainOutput

from .data import DataArguments, FeatureCollator, PreparedData, open_recordings, training_data
from .embedding.embedder import AudioEmbedder
from .embedding.kinds import front_end_of
from .embedding.whitening import check_whitening, fit_whitening
from .evaluation import ProtocolArguments, TuningEvaluation, evaluate_encoders
from .evaluation.trackers import map_for_trackers
from .models.front_ends import FrontEnd
from .training.lora import LoraArguments, LoraError, lora_config
from .training.models import EncoderArguments
from .tuning import (
    KNNCallback,
    UaMixForContrastiveTuning,
    UaMixTrainingArguments,
    make_model,
    train_stages,
)
from .tuning.interpolation import check_interpolation, interpolate
from .tuning.publishing import NotTunedError, TunedEncoder
from .tuning.recipes import check_start

NEIGHBOURS = 10  # that vote in the kNN check
Data: TypeAlias = (
    str | os.PathLike | Sequence[str | os.PathLike] | DataArguments | Dataset | IterableDataset | PreparedData
)


class UaMixTrainer(TunedEncoder):
    """Tunes an audio encoder on unlabelled recordings, evaluates it before and after, and publishes it.

    ```python
    args = UaMixTrainingArguments("tuned", mix="t-cutmix")
    trainer = UaMixTrainer("model_cards/audio-mae-tiny", args, "recordings/")
    trainer.train()
    print(trainer.evaluate("labelled/", label_column="label"))
    trainer.push_to_hub("you/tuned")
    ```

    The tuned encoder is `trainer.encoder`, an ordinary model; `trainer.model` is the [`UaMixForContrastiveTuning`] that
    holds it with the heads. `trainer.state` is the state of the second stage, with its log in `log_history`, and
    `trainer.data` the prepared recordings. For [`evaluate`] the encoder is copied before training: one more copy of its
    weights is held in CPU memory.

    Under a launcher of several processes, each makes its own trainer and calls the same methods; the first one writes
    and uploads.

    Args:
        model: Encoder to tune: folder or Hub repository, [`EncoderArguments`], an encoder that [`EncoderAdapter`]
            accepts, or a [`UaMixForContrastiveTuning`]. A model object is tuned in place.
        args: All settings of training and of the method. With a [`UaMixForContrastiveTuning`], its own configuration
            counts, and the method's fields that are given here must agree with it.
        train_dataset: Unlabelled recordings: folder or folders, [`DataArguments`], a `datasets.Dataset` with an audio
            column (undecoded or decoded), a finite stream of `datasets` (`IterableDataset`), which is read once to its
            end into a temporary folder, or [`PreparedData`].
        feature_extractor: Makes the log-mels: an [`AudioMAEFeatureExtractor`], or the encoder's own. Needed with a
            model object, else loaded with the model by default.
        audio_column: Column that holds the audio of a `datasets.Dataset`.
        label_column: Column of labels for a kNN check during training; they are never learnt from.
        group_column: Column of the speaker or source, whose clips are not neighbours of each other in that check, and
            are held out together for the guards.
        on_error: `"raise"`, or `"skip"` to leave unreadable recordings out.
        callbacks: Callbacks of transformers' Trainer, for both stages.
        lora: Tunes LoRA adapters in the encoder instead of its weights: [`LoraArguments`], or a `LoraConfig` of peft.

    Raises:
        LoraError: adapters that the encoder cannot have, or that would have no effect.
        TypeError: a model, arguments or data of another kind, a model object without a feature extractor, or an encoder
            that cannot be whitened.
        ValueError: arguments that contradict the model, or a setting without effect.
        EncoderError: an encoder that does not meet the contract of [`EncoderAdapter`].
        DataError: data that cannot be used, such as a missing folder.
        OSError: no such encoder.
    """

    def __init__(
        self,
        model: str | os.PathLike | EncoderArguments | PreTrainedModel | UaMixForContrastiveTuning | Any,
        args: UaMixTrainingArguments,
        train_dataset: Data,
        feature_extractor: FrontEnd | None = None,
        *,
        audio_column: str = "audio",
        label_column: str | None = None,
        group_column: str | None = None,
        on_error: str = "raise",
        callbacks: Sequence[TrainerCallback] = (),
        lora: LoraArguments | Any = None,
    ):
        if not isinstance(args, UaMixTrainingArguments):
            raise TypeError(f"args is a {type(args).__name__}: give UaMixTrainingArguments.")
        self.args = args
        self.callbacks = list(callbacks)
        guarded = args.guard != "off"
        self.source = training_data(train_dataset, audio_column, label_column, group_column, on_error, guarded)
        set_seed(args.seed)  # of the heads, and of random weights
        if isinstance(model, (str, os.PathLike)):
            model = EncoderArguments(os.fspath(model))
        self.random_weights = isinstance(model, EncoderArguments) and model.random_weights
        self.base_name: str | None = None
        if isinstance(model, EncoderArguments):
            self.base_name = model.model_name_or_path
            feature_extractor = feature_extractor or model.load_feature_extractor()
            model = model.load_encoder()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}: give a folder, a repository or an encoder.")
        if feature_extractor is None:
            raise TypeError("A model object says nothing of its log-mels: give feature_extractor, too.")
        encoder = model.encoder if isinstance(model, UaMixForContrastiveTuning) else model
        self.feature_extractor = front_end_of(encoder, feature_extractor)
        self.base_name = self.base_name or getattr(encoder, "name_or_path", None) or None
        if args.whiten:
            check_whitening(encoder)
        lora = lora_config(lora)
        if lora is not None and self.random_weights:
            raise LoraError("lora with random_weights: adapters would be tuned on weights that never learn.")
        adapters = "LoRA adapters, which start from 0" if lora is not None else None
        check_start(args, "random weights" if self.random_weights else adapters)
        self.base = copy.deepcopy(encoder).cpu()
        self.model = make_model(model, args, self.feature_extractor, lora)
        if args.interpolate is not None:
            check_interpolation(self.model.encoder)  # now, not after hours of training
        self.data: PreparedData | None = None
        self.clips = 0
        self.begun = False
        self.state = TrainerState()
        self.evaluations: list[TuningEvaluation] = []
        self.trackers: list[TrainerCallback] = []
        self.hub_url: str | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Prepares the data, runs both stages, whitens the embedding, and saves encoder, preprocessor, code and card.

        Before whitening, the encoder has the last weights at which no guard failed (`args.guard`), interpolated with
        those before tuning (`args.interpolate`).

        The encoder is saved before it is whitened, so that a failure after training costs no training. With
        `args.push_to_hub`, the folder is uploaded at the end.

        Args:
            resume_from_checkpoint: A checkpoint of either stage, or True for the last complete one of the output
                folder; by default what `args.resume_from_checkpoint` says.

        Returns:
            Steps and mean loss of the second stage, and the last values of what was logged in it.

        Raises:
            NotTunedError: this trainer has trained already.
            AudioInputError: an unreadable recording, unless they are skipped.
            EvaluationError: labels of which no kNN accuracy can be measured.
            RunCheckpointError: a checkpoint cannot be written or resumed from, or the output folder has those of
                another run.
            AnotherRunError: the checkpoint to resume from was made with other settings or data.
            RunStoppedError: training was stopped before its end; there is a checkpoint.
            NonFiniteLossError: the loss is not finite.
        """
        args: Any = self.args.without_hub()  # checkpoints stay here, only what is finished is uploaded
        if resume_from_checkpoint is not None:
            args = dataclasses.replace(args, resume_from_checkpoint=str(resume_from_checkpoint))
        if self.data is not None or (self.begun and not args.resume_from_checkpoint):
            raise NotTunedError("This trainer has trained already: make another one, from the encoder to start from.")
        with self.args.main_process_first(desc="log-mels"):
            data = self.source.prepare(self.feature_extractor)
        checks: list[TrainerCallback] = []
        if data.label_names:
            collator = FeatureCollator(self.feature_extractor, self.model.max_frames, normalize=True)
            size = args.per_device_train_batch_size
            checks = [KNNCallback(data.dataset, collator, data.groups, NEIGHBOURS, size, data.label_names)]
        self.begun = True
        callbacks = [*checks, *self.callbacks]
        trained = train_stages(self.model, args, data.dataset, self.feature_extractor, callbacks, data.groups)
        self.data, self.state, self.clips = data, trained.state, len(trained.train_dataset)  # type: ignore[arg-type]
        self.trackers = trained.callback_handler.callbacks
        if args.interpolate is not None:
            interpolate(self.encoder, self.base, args.interpolate)
            if trained.guard is not None:
                trained.guard.measure_interpolated(self.model, self.state)
        self.used = self.settings(trained.args)
        self.save_model()  # before anything else can fail
        if self.args.whiten:
            fit_whitening(self.encoder, self.feature_extractor, data.dataset)
            self.save_model()
        self.create_model_card()
        if self.args.push_to_hub:
            self.push_to_hub()
        metrics = self.metrics()
        return TrainOutput(self.state.global_step, metrics.get("train_loss", float("nan")), metrics)

    def evaluate(
        self,
        labelled: str | os.PathLike | Sequence[str | os.PathLike] | Dataset,
        label_column: str = "label",
        group_column: str | None = None,
        *,
        label_separator: str | None = None,
        fold_column: str | None = None,
        audio_column: str = "audio",
        where: Sequence[str] = (),
        protocols: ProtocolArguments | None = None,
        on_error: str = "raise",
        batch_size: int = 16,
    ) -> TuningEvaluation:
        """Measures the encoder before and after tuning, on the same episodes of labelled recordings.

        The result is kept in `trainer.evaluations` and goes into the card, which is written anew and, with
        `args.push_to_hub`, uploaded again. TensorBoard, W&B and MLflow get a map of the embeddings before and after, if
        `args.report_to` names them.

        Args:
            labelled: Labelled recordings, best of other sources than those that were tuned on: folder or folders, or a
                `datasets.Dataset` with an audio column.
            label_column: Column of the labels.
            group_column: Column of the speaker or source, which labelled and test clips never share.
            label_separator: What separates the labels of a clip that has several, such as `;` in `dog;rain`.
            fold_column: Column of official folds, for some protocols.
            audio_column: Column that holds the audio of a `datasets.Dataset`.
            where: Conditions `COLUMN=VALUE[,VALUE...]` on rows; all must hold.
            protocols: Protocols and their settings; by default 600 few-shot episodes of 5 classes, with 1 and with 5
                labelled clips per class.
            on_error: `"raise"`, or `"skip"` to leave unreadable recordings out.
            batch_size: Windows of audio in a batch.

        Returns:
            Means, 95 % intervals and paired differences; printed, it is a table.

        Raises:
            NotTunedError: the encoder has not been trained yet.
            DataError: a missing folder or column, or a clip without a label.
            EvaluationError: labels that the protocols cannot evaluate, such as too few clips of a class.
            AudioInputError: an unreadable recording, unless they are skipped.
        """
        self.check_tuned("evaluate")
        recordings, name = open_recordings(labelled, audio_column, where)
        path = self.model.config.layers_path
        encoders = {
            "before": AudioEmbedder(self.base.to(self.encoder.device), self.feature_extractor, path),
            "after": AudioEmbedder(self.encoder, self.feature_extractor, path),
        }
        try:
            with map_for_trackers(self.trackers if self.writes else (), self.state.global_step) as folder:
                results = evaluate_encoders(
                    encoders, recordings, label_column, protocols,
                    label_separator=label_separator, group_column=group_column, fold_column=fold_column,
                    on_error=on_error, batch_size=batch_size, progress_bar=not self.args.disable_tqdm,  # type: ignore[arg-type]
                    settings={"data": name}, output_dir=folder,
                )  # fmt: skip
        finally:
            self.base.cpu()
        evaluation = TuningEvaluation(name, results)
        self.evaluations.append(evaluation)
        self.create_model_card()
        if self.args.push_to_hub:
            self.push_to_hub()
        return evaluation


__all__ = ["NotTunedError", "UaMixTrainer"]
