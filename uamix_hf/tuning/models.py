"""The model that is tuned, from an encoder or from a model of the method."""

from typing import Any

from ..embedding.encoders import base_of
from ..embedding.kinds import make_adapter
from ..embedding.peft_folders import check_target, has_adapters
from ..models.front_ends import FrontEnd
from ..training.lora import LoraError, add_lora, check_adapters
from .arguments import UaMixTrainingArguments
from .modeling_uamix import UaMixForContrastiveTuning

# Fields of the model's configuration that the feature extractor says.
STATISTICS = {"input_mean": "mean", "input_std": "std", "input_std_factor": "std_factor"}


def make_model(
    model: Any, args: UaMixTrainingArguments, feature_extractor: FrontEnd, lora: Any = None
) -> UaMixForContrastiveTuning:
    """The model to tune: the given one, or one made from an encoder with the method's fields of the arguments.

    Heads are initialised from torch's global random state.

    Args:
        model: Encoder, or [`UaMixForContrastiveTuning`].
        args: Arguments with the method's fields.
        feature_extractor: Its statistics normalise the views.
        lora: `LoraConfig` of peft, with which an encoder gets adapters; None for none.

    Raises:
        LoraError: adapters that the encoder cannot have, or that would have no effect.
        ValueError: a feature extractor that does not fit the encoder, or a given model that contradicts the arguments,
            or that normalises views by other statistics than the feature extractor.
        EncoderError: an encoder that does not meet the contract of [`EncoderAdapter`], or adapters whose encoder is in
            the output folder.
    """
    statistics = {field: getattr(feature_extractor, name) for field, name in STATISTICS.items()}
    if not isinstance(model, UaMixForContrastiveTuning):
        if lora is not None:
            frozen = args.frozen_blocks(len(make_adapter(model, args.layers_path).layers))
            model = add_lora(model, lora, feature_extractor, args.layers_path, frozen)
        elif has_adapters(model):
            check_adapters(model, feature_extractor, args.layers_path)
        if has_adapters(model):
            check_target(base_of(model).name_or_path, str(args.output_dir))
        fields = statistics | {"max_length": feature_extractor.max_length}
        model = UaMixForContrastiveTuning.from_encoder(model, **fields, **args.method_settings())
        model.adapter.check_fit(feature_extractor)
        return model
    if lora is not None:
        raise LoraError("A model of the method takes no lora: add adapters to its encoder before from_encoder.")
    args.check_agreement(model.config, model.config.queue_size)  # an earlier run may have shrunk the queue
    for field, value in statistics.items():
        if getattr(model.config, field) != value:
            raise ValueError(
                f"The model normalises log-mels with {field}={getattr(model.config, field)}, the feature extractor "
                f"with {value}: give from_encoder the feature extractor's mean, std and std_factor."
            )
    model.adapter.check_fit(feature_extractor)
    model.config.max_length = feature_extractor.max_length
    return model


__all__ = ["make_model"]
