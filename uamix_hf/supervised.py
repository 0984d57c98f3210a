"""Supervised fine-tuning: an encoder and a linear layer on its pooled output, trained together on labelled clips."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainingArguments, set_seed

from .data import LogMelCollator
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import AudioMAEForAudioClassification, AudioMAEModel
from .trainer import LengthBucketTrainer


@dataclass
class FineTuningArguments(TrainingArguments):
    """transformers' arguments, with the defaults of Audio-MAE's fine-tuning on small data (method.md 1.8) and its
    augmentation (method.md 1.1). One learning rate serves the encoder and the linear layer."""

    roll: bool = field(default=True, metadata={"help": "Whether to turn each clip round by a random time."})
    gain_alpha: float = field(default=10.0, metadata={"help": "Random gain of Beta(a, a) + 0.5; 0 turns it off."})

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips per step and process."})
    num_train_epochs: float = field(default=50.0, metadata={"help": "Epochs; max_steps wins over them."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of matrices."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second moment of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up, or their share below 1."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator reads the columns."})


def make_classifier(encoder: AudioMAEModel, number_of_classes: int) -> AudioMAEForAudioClassification:
    """A copy of the encoder, with what is frozen in it, under a new linear layer.

    Raises:
        TypeError: an encoder of another kind.
    """
    if not isinstance(encoder, AudioMAEModel):
        raise TypeError(f"The classifier is built on an AudioMAEModel, not on {type(encoder).__name__}.")
    config = copy.deepcopy(encoder.config)
    config.num_labels = number_of_classes
    model = AudioMAEForAudioClassification(config)
    model.audio_mae = copy.deepcopy(encoder)
    return model


def labelled_rows(dataset: Dataset, rows: np.ndarray, labels: np.ndarray, number_of_classes: int) -> Dataset:
    """The chosen rows with a column `labels` of class numbers.

    Args:
        rows: (n,) int. labels: (clips,) int, one for each row of `dataset`; those of other rows are never looked at.

    Raises:
        ValueError: no rows, not one label per clip, or a label outside 0 ... number_of_classes - 1.
    """
    rows, labels = np.asarray(rows), np.asarray(labels)
    if labels.shape != (len(dataset),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels is {labels.dtype} {labels.shape}, expected one class number for each of the {len(dataset)} clips."
        )
    if len(rows) == 0:
        raise ValueError("There are no rows to train on.")
    wrong = rows[(labels[rows] < 0) | (labels[rows] >= number_of_classes)]
    if len(wrong):
        raise ValueError(
            f"Row {wrong[0]} has label {labels[wrong[0]]}, there are classes 0 ... {number_of_classes - 1}."
        )
    # Labelled first: a column added to selected rows would have them copied on disk.
    table = dataset.select_columns(["log_mel", "length", "sample_id"]).add_column("labels", labels.astype(np.int64))
    return table.select(rows)


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
    model = make_classifier(encoder, number_of_classes)
    trainer = LengthBucketTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        data_collator=LogMelCollator(
            feature_extractor, model.config.max_length, normalize=True, roll=args.roll, gain_alpha=args.gain_alpha
        ),
        processing_class=feature_extractor,
    )
    if args.logging_strategy == "no":
        trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


def windows(dataset: Dataset, rows: np.ndarray, max_frames: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Place in `rows` and log-mel (frames, mel bins) of each window of at most `max_frames` frames."""
    lengths = np.asarray(dataset["length"][:])[rows]
    for place in np.argsort(lengths, kind="stable"):  # clips of similar length together leave little padding
        for window in dataset[int(rows[place])]["log_mel"].split(max_frames):
            yield int(place), window


@torch.inference_mode()
def embed_log_mels(
    encoder: AudioMAEModel,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    rows: np.ndarray | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Pooled embeddings (rows, embedding_size) float32 of cached log-mels; all of them by default.

    As [`AudioEmbedder`] does with recordings, longer ones are averaged over windows, each weighted by its frames.
    The encoder is left in evaluation mode.
    """
    rows = np.arange(len(dataset)) if rows is None else np.asarray(rows)
    encoder.eval()
    collator = LogMelCollator(feature_extractor, encoder.config.max_length, normalize=True)
    total = np.zeros((len(rows), encoder.config.embedding_size))
    frames = np.zeros((len(rows), 1))
    stream = windows(dataset, rows, encoder.config.max_length)
    while chunk := list(islice(stream, batch_size)):
        batch = collator([{"log_mel": window, "sample_id": place} for place, window in chunk])
        mask = batch["attention_mask"]
        pooled = encoder(batch["input_values"].to(encoder.device), mask.to(encoder.device)).pooler_output
        lengths = mask.sum(1, keepdim=True).numpy()
        places = batch["sample_id"].numpy()
        np.add.at(total, places, pooled.double().cpu().numpy() * lengths)
        np.add.at(frames, places, lengths)
    return (total / frames).astype(np.float32)


@torch.inference_mode()
def predict(
    model: AudioMAEForAudioClassification,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    rows: np.ndarray,
    batch_size: int = 32,
) -> np.ndarray:
    """Class numbers (rows,) int64. The layer sees a long recording's average over windows; see [`embed_log_mels`]."""
    vectors = embed_log_mels(model.audio_mae, feature_extractor, dataset, rows, batch_size)
    logits = model.classifier(torch.from_numpy(vectors).to(model.classifier.weight))
    return logits.argmax(dim=1).cpu().numpy()


__all__ = ["FineTuningArguments", "embed_log_mels", "fine_tune", "make_classifier", "predict"]
