"""Low-shot accuracy of encoders that are fine-tuned on the few labels, instead of a classifier on frozen embeddings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data import cached_features
from ..fine_tuning import FineTuningArguments, fine_tune, predict
from ..metrics.checks import check_single_label
from .embeddings import Encoder, load_embedder
from .low_shot import low_shot_trials
from .scores import Scores
from .splits import Split


def fine_tune_low_shot(
    encoder: Encoder,
    recordings: Dataset,
    labels: np.ndarray,
    splits: Sequence[Split],
    k: int,
    seeds: Sequence[int],
    args: FineTuningArguments | None = None,
    cache_dir: str | Path | None = None,
    progress_bar: bool = True,
) -> Scores:
    """Accuracy on all test clips of a copy of the encoder that is fine-tuned on `k` labelled clips per class.

    Trials are those of [`low_shot_accuracy`], clip for clip and in the same order, so that the two can be compared in
    pairs.

    Args:
        encoder: Folder or Hub repository of an encoder, an [`AudioEmbedder`], or an encoder with its feature
            extractor; left as it is.
        recordings: Of [`load_recordings`].
        labels: Class numbers (clips,), one for each recording.
        splits: Of [`make_splits`].
        k: Labelled clips per class.
        seeds: Each chooses labelled clips in every split, and replaces `args.seed` in the training on them.
        args: Training arguments; `output_dir` is not used, since nothing is saved. By default nothing is logged.
        cache_dir: Where log-mels are cached; the cache of `datasets` by default.
        progress_bar: Whether to show one, in trials.

    Raises:
        EvaluationError: several labels per clip.
        SplitError: no splits or seeds.
        DataError: too few clips of a class.
        EncoderError: an encoder that does not meet the contract of its adapter.
        AudioInputError: an unreadable recording.
    """
    check_single_label(labels, "fine_tune_low_shot")
    trials = list(low_shot_trials(labels, splits, k, seeds))
    embedder = load_embedder(encoder, device="cpu")  # the copies move to the device that is trained on
    model, extractor = embedder.model, embedder.feature_extractor
    log_mels = cached_features(recordings, extractor, cache_dir=cache_dir).dataset
    args = args or FineTuningArguments(logging_strategy="no", disable_tqdm=True, report_to="none")
    correct = []
    with TemporaryDirectory() as folder:
        for seed, labelled, test in tqdm(trials, desc="Fine-tuning", unit="trial", disable=not progress_bar):
            classifier = fine_tune(
                model,
                extractor,
                log_mels,
                labelled,
                labels,
                int(labels.max()) + 1,
                replace(args, seed=seed, output_dir=folder, save_strategy="no", load_best_model_at_end=False),
            )
            correct.append(predict(classifier, extractor, log_mels, test) == labels[test])
    numbers = np.repeat(np.arange(len(trials)), [len(test) for _, _, test in trials])
    return Scores.from_clips(np.concatenate(correct), np.concatenate([labels[test] for _, _, test in trials]), numbers)


__all__ = ["fine_tune_low_shot"]
