"""Which evaluation protocols to run, and with which settings."""

from dataclasses import dataclass, field

from ..data.checks import refuse_idle
from .classifiers import CLASSIFIERS

PROTOCOLS = ("few_shot", "low_shot", "fine_tune", "knn", "linear")
# Settings, and the protocols that read them.
USED_BY = {
    ("classifiers",): ("few_shot", "low_shot"),
    ("n_way", "k_shot", "queries", "episodes"): ("few_shot",),
    ("low_shot_k", "low_shot_seeds"): ("low_shot", "fine_tune"),
    ("n_splits", "test_folds"): ("low_shot", "fine_tune", "linear"),
    ("neighbours",): ("knn",),
}


@dataclass
class ProtocolArguments:
    """Evaluation protocols and their settings.

    Args:
        protocol: Any of `PROTOCOLS`.
        classifiers: Keys of `CLASSIFIERS`, for few_shot and low_shot.
        n_way: Classes per few-shot episode.
        k_shot: Labelled clips per class of an episode, one measurement each.
        queries: Clips to classify per class of an episode.
        episodes: Few-shot episodes.
        low_shot_k: Labelled clips per class for low_shot and fine_tune, one measurement each.
        low_shot_seeds: Random choices of the labelled clips in each split.
        n_splits: Random cross-validation splits, where the data have no folds of their own.
        test_folds: Official folds that are tested, where the others are for training only; all by default.
        neighbours: Neighbours that vote in knn.
        seed: Random seed of episodes, splits and labelled clips.

    Raises:
        ValueError: a setting of a protocol that is not run, or a number that is too small.
    """

    protocol: list[str] = field(
        default_factory=lambda: ["few_shot"],
        metadata={
            "choices": PROTOCOLS,
            "help": "few_shot: episodes of a few classes. low_shot: k labelled clips of every class, all test clips. "
            "fine_tune: the same labelled clips, but the whole encoder is fine-tuned on them. "
            "knn: leave-one-out k nearest neighbours. linear: a linear probe on all training clips.",
        },
    )
    classifiers: list[str] = field(
        default_factory=lambda: ["nearest_centroid"],
        metadata={"choices": tuple(CLASSIFIERS), "help": "Classifiers on frozen embeddings (few_shot, low_shot)."},
    )
    n_way: int = field(default=5, metadata={"help": "Classes per episode (few_shot)."})
    k_shot: list[int] = field(default_factory=lambda: [1, 5], metadata={"help": "Labelled clips per class (few_shot)."})
    queries: int = field(default=15, metadata={"help": "Clips to classify per class of an episode (few_shot)."})
    episodes: int = field(default=600, metadata={"help": "Episodes (few_shot)."})
    low_shot_k: list[int] = field(
        default_factory=lambda: [1, 2, 5, 10, 20],
        metadata={"help": "Labelled clips per class (low_shot, fine_tune)."},
    )
    low_shot_seeds: int = field(
        default=5, metadata={"help": "Random choices of the labelled clips per split (low_shot, fine_tune)."}
    )
    n_splits: int = field(
        default=5, metadata={"help": "Random splits, where there is no fold column (low_shot, fine_tune, linear)."}
    )
    test_folds: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Values of the fold column that are tested, where the others are for training only, as in an "
            "official split into train and test; by default each fold is tested once (low_shot, fine_tune, linear)."
        },
    )
    neighbours: int = field(default=10, metadata={"help": "Neighbours that vote (knn)."})
    seed: int = field(default=0, metadata={"help": "Random seed of episodes, splits and labelled clips."})

    def __post_init__(self) -> None:
        for names, protocols in USED_BY.items():
            if not set(protocols) & set(self.protocol):
                refuse_idle(self, names, f"--protocol {' or '.join(protocols)}")
        least = {"n_way": 2, "n_splits": 2, "seed": 0}
        for option, value in vars(self).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and number < least.get(option, 1):
                    raise ValueError(f"{option}={number}: at least {least.get(option, 1)} is needed.")


__all__ = ["PROTOCOLS", "ProtocolArguments"]
