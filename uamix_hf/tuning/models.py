"""The model that is tuned, from an encoder or from a model of the method."""

from typing import Any

from ..models.front_ends import FrontEnd
from .arguments import UaMixTrainingArguments
from .modeling_uamix import UaMixForContrastiveTuning

STATISTICS = {"input_mean": "mean", "input_std": "std", "input_std_factor": "std_factor"}


def make_model(model: Any, args: UaMixTrainingArguments, feature_extractor: FrontEnd) -> UaMixForContrastiveTuning:
    """The model to tune: the given one, or one made from an encoder with the method's fields of the arguments.

    Heads are initialised from torch's global random state.

    Args:
        model: Encoder, or [`UaMixForContrastiveTuning`].
        args: Arguments with the method's fields.
        feature_extractor: Its statistics normalise the views.

    Raises:
        ValueError: a feature extractor that does not fit the encoder, or a given model that contradicts the arguments,
            or that normalises views by other statistics than the feature extractor.
        EncoderError: an encoder that does not meet the contract of [`EncoderAdapter`].
    """
    statistics = {field: getattr(feature_extractor, name) for field, name in STATISTICS.items()}
    if not isinstance(model, UaMixForContrastiveTuning):
        model = UaMixForContrastiveTuning.from_encoder(model, **statistics, **args.method_settings())
        model.adapter.check_fit(feature_extractor)
        return model
    args.check_agreement(model.config, model.config.queue_size)  # an earlier run may have shrunk the queue
    for field, value in statistics.items():
        if getattr(model.config, field) != value:
            raise ValueError(
                f"The model normalises log-mels with {field}={getattr(model.config, field)}, the feature extractor "
                f"with {value}: give from_encoder the feature extractor's mean, std and std_factor."
            )
    return model


__all__ = ["make_model"]
