"""The model to pretrain: from scratch, or from a checkpoint."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import AutoFeatureExtractor

from ..models.audio_mae.configuration_audio_mae import AudioMAEConfig
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForPreTraining

# Parts of the model that a checkpoint has as a whole or not at all. That of the joint objective is optional.
JOINT = "decoder.match."
PARTS = ("audio_mae.", JOINT, "decoder.")


class IncompatibleCheckpointError(ValueError):
    """The weights of a checkpoint do not fit the given configuration."""


@dataclass
class PretrainingModelArguments:
    """Which model, and its objective; by default those of the preset, or of the checkpoint.

    Args:
        model_name_or_path: Checkpoint to continue from: folder or Hub repository.
        preset: Size from scratch: `"tiny"`, `"small"`, `"base"` or `"large"`.
        mask_type: `"unstructured"` masks any patches, `"time_frequency"` whole time columns and frequency bands.
        decoder_type: `"global"` has plain transformer layers, `"local"` Swin-V2 windows.
        norm_pix_loss: Whether each target patch is standardised.
        contrastive_weight: Weight of MAE-AST's contrastive loss beside the reconstruction loss; 0.1 is MAE-AST's.
        config_overrides: Further fields of [`AudioMAEConfig`], each `NAME=VALUE` with a value as in JSON.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to continue from: folder or Hub repository."}
    )
    preset: str = field(default="tiny", metadata={"help": "Size from scratch: tiny, small, base or large."})
    mask_type: Literal["unstructured", "time_frequency"] | None = field(
        default=None, metadata={"help": "What is masked: any patches, or whole time columns and frequency bands."}
    )
    decoder_type: Literal["global", "local"] | None = field(
        default=None, metadata={"help": "Decoder of plain transformer layers, or of Swin-V2 windows."}
    )
    norm_pix_loss: bool | None = field(default=None, metadata={"help": "Whether each target patch is standardised."})
    contrastive_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of the contrastive loss beside the reconstruction loss; 0.1 is MAE-AST's."},
    )
    config_overrides: list[str] = field(
        default_factory=list,
        metadata={"help": "Other fields of AudioMAEConfig: NAME=VALUE, values as in JSON.", "action": "extend"},
    )

    def changes(self) -> dict[str, Any]:
        """Given fields of the configuration.

        Raises:
            ValueError: an override that is not of the form NAME=VALUE, or no such field.
        """
        named = ("mask_type", "decoder_type", "norm_pix_loss", "contrastive_weight")
        changes = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        fields = {entry.name for entry in dataclasses.fields(AudioMAEConfig)}
        for item in self.config_overrides:
            name, equals, value = item.partition("=")
            if not equals:
                raise ValueError(f"config_overrides: {item!r} is not of the form NAME=VALUE.")
            if name not in fields:
                raise ValueError(f"config_overrides: AudioMAEConfig has no field {name!r}.")
            try:
                changes[name] = json.loads(value)
            except json.JSONDecodeError:
                changes[name] = value  # a word without quotes; the configuration checks its type
        return changes


def pretraining_model(args: PretrainingModelArguments) -> tuple[AudioMAEForPreTraining, AudioMAEFeatureExtractor]:
    """Model to pretrain and its feature extractor.

    From scratch, the feature extractor has the statistics of AudioSet. A checkpoint of the encoder only gets a new
    decoder.

    Args:
        args: Which model, and its objective.

    Raises:
        IncompatibleCheckpointError: a given field changes the shapes of the checkpoint's weights.
        ValueError: no such preset, field or value.
    """
    changes = args.changes()
    if not args.model_name_or_path:
        model = AudioMAEForPreTraining(AudioMAEConfig.preset(args.preset, **changes))
        return model, AudioMAEFeatureExtractor(
            num_mel_bins=model.config.num_mel_bins,
            max_length=model.config.max_length,
            patch_size=model.config.patch_size,
        )
    source = args.model_name_or_path
    extractor = AutoFeatureExtractor.from_pretrained(source)
    config = AudioMAEConfig.from_pretrained(source)
    layout = config.position_layout
    for name, value in changes.items():
        setattr(config, name, value)
    config = AudioMAEConfig.from_dict(config.to_dict())  # checks the fields together
    loaded: Any = AudioMAEForPreTraining.from_pretrained(
        source, config=config, output_loading_info=True, ignore_mismatched_sizes=True
    )
    model, found = loaded
    wrong = misfits(model, found)
    if config.position_layout != layout:
        wrong.append("its position table, which is fixed")
    if wrong:
        asked = ", ".join(f"{name}={value!r}" for name, value in changes.items()) or "these classes"
        raise IncompatibleCheckpointError(
            f"{source} does not fit {asked}: {', '.join(wrong[:3])}{', ...' * (len(wrong) > 3)}. From a checkpoint, "
            "only what leaves its weights their shape can be changed; start from scratch with --preset instead."
        )
    return model, extractor


def misfits(model: AudioMAEForPreTraining, found: dict[str, Any]) -> list[str]:
    """Weights of a checkpoint that the model lacks, of other shapes, or missing from a part that it has otherwise.

    The last, since the two decoders share some names of weights.
    """
    missing = set(found["missing_keys"])
    wrong = {f"{entry[0]} has another shape" for entry in found["mismatched_keys"]}
    wrong |= {f"{name} has no place" for name in found["unexpected_keys"] if not name.startswith(JOINT)}
    left = set(model.state_dict())
    for part in PARTS:
        own = {name for name in left if name.startswith(part)}
        left -= own
        if own - missing:
            wrong |= {f"{name} is not in it" for name in own & missing}
    return sorted(wrong)


__all__ = ["IncompatibleCheckpointError", "PretrainingModelArguments", "misfits", "pretraining_model"]
