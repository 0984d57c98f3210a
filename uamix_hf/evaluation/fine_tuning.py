"""Low-shot accuracy of whole encoders that are fine-tuned on the few labels, instead of a classifier on frozen ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor, AutoModel

from ..data import cached_log_mels
from ..data.labels import draw_labelled
from ..fine_tuning import FineTuningArguments, fine_tune, predict
from ..metrics.checks import check_single_label
from .scores import Scores
from .splits import Split, SplitError, check_rows


def fine_tune_low_shot(
    model_path: str | Path,
    recordings: Dataset,
    labels: np.ndarray,
    splits: Sequence[Split],
    k: int,
    seeds: Sequence[int],
    args: FineTuningArguments | None = None,
    cache_dir: str | Path | None = None,
    progress_bar: bool = True,
) -> Scores:
    """Accuracy on all test rows of a fresh copy of the encoder, fine-tuned on `k` labelled clips per class.

    Draws are those of [`low_shot_accuracy`], clip for clip and in the same order, so that the two compare cell by cell.

    Args:
        model_path: Folder or Hub repository of an Audio-MAE encoder. recordings: Of [`load_recordings`].
        labels: Class numbers (clips,), one for each recording. splits: Of [`make_splits`].
        seeds: Each draws the labelled clips, and decides the training on them in place of `args.seed`.
        args: Of the training; its folder is not used, nothing is saved. By default nothing is logged either.
        cache_dir: Where log-mels are cached; `datasets`' own cache by default. progress_bar: Shows one, in draws.

    Raises:
        EvaluationError: labels of several classes a clip. SplitError: no splits or seeds, or too few clips of a class.
        TypeError: another kind of encoder. AudioInputError: an unreadable recording.
    """
    check_single_label(labels, "fine_tune_low_shot")
    if not splits or not seeds:
        raise SplitError(f"There are {len(splits)} splits and {len(seeds)} seeds: at least one of each is needed.")
    for train, test in splits:
        check_rows(labels, train, test)
    encoder = AutoModel.from_pretrained(model_path)
    extractor = AutoFeatureExtractor.from_pretrained(model_path)
    log_mels = cached_log_mels(recordings, extractor, cache_dir=cache_dir).dataset
    args = args or FineTuningArguments(logging_strategy="no", disable_tqdm=True, report_to="none")
    draws = [(seed, train, test) for seed in seeds for train, test in splits]
    hits = []
    with TemporaryDirectory() as folder:
        for seed, train, test in tqdm(draws, desc="Fine-tuning", unit="draw", disable=not progress_bar):
            model = fine_tune(
                encoder,
                extractor,
                log_mels,
                draw_labelled(labels, train, k, seed),
                labels,
                int(labels.max()) + 1,
                replace(args, seed=seed, output_dir=folder, save_strategy="no", load_best_model_at_end=False),
            )
            hits.append(predict(model, extractor, log_mels, test) == labels[test])
    numbers = np.repeat(np.arange(len(draws)), [len(test) for _, _, test in draws])
    return Scores.from_clips(np.concatenate(hits), np.concatenate([labels[test] for _, _, test in draws]), numbers)


__all__ = ["fine_tune_low_shot"]
