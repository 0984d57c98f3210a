"""An encoder before and after tuning, on the same episodes and splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..hub.cards import CardEvaluation
from .tables import measurement_name, percent, score_table


@dataclass(frozen=True)
class ComparedMeasurement:
    """Scores of one protocol with one setting, before and after tuning; fractions in [0, 1].

    Args:
        name: Protocol, classifier and number of labelled clips, in words.
        protocol: One of `PROTOCOLS`.
        classifier: Key of `CLASSIFIERS`, where the protocol has one.
        k: Labelled clips per class, where the protocol has them.
        metric: `"accuracy"` or `"average_precision"`.
        neighbours: Neighbours that voted, for kNN.
        before: Mean score of the encoder before tuning.
        before_interval: Half width of its 95 % interval over trials; None for a single trial.
        after: Mean score of the tuned encoder.
        after_interval: Half width of its 95 % interval over trials; None for a single trial.
        difference: After minus before, paired by trial and class.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end of the 95 % interval of the difference.
    """

    name: str
    protocol: str
    classifier: str | None
    k: int | None
    metric: str
    neighbours: int | None
    before: float
    before_interval: float | None
    after: float
    after_interval: float | None
    difference: float
    low: float
    high: float

    def row(self) -> list[str]:
        """Name, metric, both scores and their difference, in words and %."""
        means = ((self.before, self.before_interval), (self.after, self.after_interval))
        scores = [percent(mean) + ("" if half is None else f" ± {percent(half)}") for mean, half in means]
        difference, low, high = (percent(value, "+") for value in (self.difference, self.low, self.high))
        return [self.name, self.metric.replace("_", " "), *scores, f"{difference} [{low}, {high}]"]


@dataclass(frozen=True)
class TuningEvaluation:
    """What [`UaMixTrainer.evaluate`] measured; printed, it is a table in %.

    Args:
        data: Name of the labelled recordings.
        results: The results tree of [`evaluate_encoders`], whose two models are `"before"` and `"after"`.
    """

    data: str
    results: Mapping[str, Any]

    @property
    def measurements(self) -> list[ComparedMeasurement]:
        """One for each protocol, classifier and number of labelled clips."""
        before, after = (model["scores"] for model in self.results["models"])
        return [
            ComparedMeasurement(
                name=measurement_name(one, self.results),
                **{key: one[key] for key in ("protocol", "classifier", "k", "metric", "neighbours")},
                before=one["mean"],
                before_interval=one["interval"],
                after=two["mean"],
                after_interval=two["interval"],
                **{key: gain[key] for key in ("difference", "low", "high")},
            )
            for one, two, gain in zip(before, after, self.results["comparisons"], strict=True)
        ]

    @property
    def clips(self) -> int:
        """Number of labelled clips."""
        return int(self.results["data"]["clips"])

    @property
    def classes(self) -> list[str]:
        """Class names."""
        return list(self.results["data"]["classes"])

    def for_card(self) -> CardEvaluation:
        """The evaluation as a section of a model card."""
        group = self.results["arguments"].get("group_column")
        groups = f", no group of `{group}` on both sides" if group else ""
        return CardEvaluation(
            data=self.data,
            text=f"{self.data}: {self.clips} clips of {len(self.classes)} classes{groups}",
            rows=[one.row() for one in self.measurements],
            scores=[round(one.after, 4) for one in self.measurements],
        )

    def __str__(self) -> str:
        return str(score_table(self.results))


__all__ = ["ComparedMeasurement", "TuningEvaluation"]
