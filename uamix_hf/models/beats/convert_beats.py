"""Released BEATs and OpenBEATs checkpoints to models of this package."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..checkpoint import CheckpointError, KeyReport, load_converted
from ..front_ends import front_end
from ..system import System
from .configuration_beats import BeatsConfig
from .modeling_beats import BeatsForAudioClassification, BeatsModel, BeatsPreTrainedModel

# Their names -> ours.
STEM = {
    "patch_embedding": "embeddings.patch_embeddings.projection",
    "layer_norm": "embeddings.layernorm",
    "post_extract_proj": "embeddings.projection",
    "encoder.layer_norm": "layernorm",
}
LAYER = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.o_proj",
    "self_attn.grep_linear": "attention.gate_proj",
    "self_attn_layer_norm": "attention_layernorm",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "final_layer_norm": "final_layernorm",
}
POSITION_CONV = "encoder.pos_conv.0"
POSITION_BIAS = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
# What this package implements, by the names of a checkpoint's `cfg`.
IMPLEMENTED = {
    "layer_norm_first": False,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "conv_bias": False,
    "activation_fn": "gelu",
}
# Settings of `cfg` that act in the released training code only.
TRAINING_SETTINGS = ("encoder_layerdrop", "dropout_input", "predictor_dropout")
# Of the log-mels: the statistics in BEATs' code, which the openbeats library also falls back to.
BEATS_MEAN, BEATS_STD = 15.41663, 6.55582
MAX_DISTANCE = 800  # of all released models; the default in BEATs' code, 1280, is that of none


def layout(config: BeatsConfig, kind: type[BeatsPreTrainedModel], head: str) -> Iterator[tuple[str, str]]:
    """Every key of the layout that is renamed only, and our name for it."""
    base = "" if kind is BeatsModel else "beats."
    for theirs, ours in STEM.items():
        if theirs == "post_extract_proj" and config.patch_embedding_size == config.hidden_size:
            continue
        yield f"{theirs}.weight", f"{base}{ours}.weight"
        if theirs != "patch_embedding":
            yield f"{theirs}.bias", f"{base}{ours}.bias"
    yield f"{POSITION_CONV}.bias", f"{base}position_conv.conv.bias"
    yield POSITION_BIAS.format(0), f"{base}relative_position_bias.embedding.weight"
    for i in range(config.num_hidden_layers):
        for theirs, ours in LAYER.items():
            for suffix in ("weight", "bias"):
                yield f"encoder.layers.{i}.{theirs}.{suffix}", f"{base}layers.{i}.{ours}.{suffix}"
        yield f"encoder.layers.{i}.self_attn.grep_a", f"{base}layers.{i}.attention.gate_scale"
    if kind is BeatsForAudioClassification:
        yield f"{head}.weight", "classifier.weight"
        yield f"{head}.bias", "classifier.bias"


def read_config(
    tensors: Mapping[str, torch.Tensor], cfg: Mapping[str, Any], labels: Any, head: str, fields: dict[str, Any]
) -> tuple[BeatsConfig, type[BeatsPreTrainedModel]]:
    """Reads the sizes from the tensors and `cfg`, which must agree, and selects the class that the layout fills.

    Args:
        tensors: Tensors by key.
        cfg: Configuration of the checkpoint, which may lack any entry.
        labels: Class names by index, or None.
        head: Name of the classifier in the layout.
        fields: Fields of the configuration that are known otherwise.
    """

    def shape(key: str, axes: int) -> torch.Size:
        if key not in tensors:
            raise CheckpointError(f"The checkpoint has no {key}: this is not a layout of BEATs.")
        if tensors[key].ndim != axes:
            raise CheckpointError(f"{key} has shape {tuple(tensors[key].shape)}, expected {axes} axes.")
        return tensors[key].shape

    def size(name: str, value: int) -> int:
        if cfg.get(name, value) != value:
            raise CheckpointError(f"The checkpoint's cfg has {name}={cfg[name]}, and its tensors {value}.")
        return value

    for name, value in IMPLEMENTED.items():
        if cfg.get(name, value) != value:
            raise CheckpointError(f"The checkpoint has {name}={cfg[name]}; only {name}={value} is implemented.")
    width = size("encoder_embed_dim", shape("encoder.layer_norm.weight", 1)[0])
    patch = shape("patch_embedding.weight", 4)
    _, group_width, kernel = shape(f"{POSITION_CONV}.weight_v", 3)
    buckets, heads = shape(POSITION_BIAS.format(0), 2)
    layers = {int(found[1]) for key in tensors if (found := re.match(r"encoder\.layers\.(\d+)\.", key))}
    fields = {
        **fields,
        "hidden_size": width,
        "num_hidden_layers": size("encoder_layers", 1 + max(layers)),
        "num_attention_heads": size("encoder_attention_heads", heads),
        "intermediate_size": size("encoder_ffn_embed_dim", shape("encoder.layers.0.fc1.weight", 2)[0]),
        "patch_embedding_size": size("embed_dim", patch[0]),
        "patch_size": size("input_patch_size", patch[-1]),
        "num_conv_pos_embeddings": size("conv_pos", kernel),
        "num_conv_pos_embedding_groups": size("conv_pos_groups", width // group_width),
        "num_buckets": size("num_buckets", buckets),
        "hidden_dropout_prob": cfg.get("dropout", 0.0),
        "attention_probs_dropout_prob": cfg.get("attention_dropout", 0.0),
        "activation_dropout": cfg.get("activation_dropout", 0.0),
    }
    kind: type[BeatsPreTrainedModel] = BeatsModel
    if f"{head}.weight" in tensors:
        kind = BeatsForAudioClassification
        fields["num_labels"] = size("predictor_class", shape(f"{head}.weight", 2)[0])
        fields["problem_type"] = "multi_label_classification"  # the released classifiers end in a sigmoid
        if labels is not None:
            if sorted(labels) != list(range(fields["num_labels"])):
                raise CheckpointError(f"label_dict does not name the {fields['num_labels']} classes of the head.")
            fields["id2label"] = {index: str(labels[index]) for index in sorted(labels)}
            fields["label2id"] = {name: index for index, name in fields["id2label"].items()}
    try:
        return BeatsConfig(**fields), kind
    except StrictDataclassError as error:
        raise CheckpointError(f"The checkpoint's sizes do not make a model: {error}") from error


def folded_weight_norm(gain: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Weight of a weight-normalised convolution, normalised for each kernel position (dimension 2)."""
    if gain.numel() != direction.shape[2]:
        raise CheckpointError(
            f"{POSITION_CONV}.weight_g has shape {tuple(gain.shape)}, expected {(1, 1, direction.shape[2])}."
        )
    return gain * direction / direction.norm(dim=(0, 1), keepdim=True)


def convert_layout(
    tensors: Mapping[str, torch.Tensor],
    cfg: Mapping[str, Any],
    labels: Any,
    head: str,
    fields: dict[str, Any],
) -> tuple[BeatsPreTrainedModel, KeyReport]:
    """Fills a model of this package with the tensors of BEATs' layout.

    Args:
        tensors: Tensors by key.
        cfg: Configuration of the checkpoint.
        labels: Class names by index, or None.
        head: Name of the classifier in the layout.
        fields: Fields of the configuration that are known otherwise.

    Returns:
        The model in float32 and evaluation mode, and the report of keys.
    """
    config, kind = read_config(tensors, cfg, labels, head, fields)
    pairs = dict(layout(config, kind, head))
    copies = [POSITION_BIAS.format(i) for i in range(1, config.num_hidden_layers)]
    norm = (f"{POSITION_CONV}.weight_g", f"{POSITION_CONV}.weight_v")
    known = {*pairs, *copies, *norm}
    report = KeyReport(
        used=[key for key in tensors if key in known],
        ignored={key: why_ignored(key) for key in tensors if key not in known},
        missing=[key for key in (*pairs, *norm) if key not in tensors],
    )
    for key in copies:
        if key in tensors and not torch.equal(tensors[key], tensors[POSITION_BIAS.format(0)]):
            raise CheckpointError(f"{key} differs from the table of layer 0: in BEATs, all layers share one.")
    state = {pairs[key]: tensors[key].float() for key in report.used if key in pairs}
    if all(key in tensors for key in norm):
        base = "" if kind is BeatsModel else "beats."
        state[f"{base}position_conv.conv.weight"] = folded_weight_norm(*(tensors[key].float() for key in norm))
    return load_converted(kind(config), state, report), report


def why_ignored(key: str) -> str:
    """Reason for which a key of the checkpoint is not used."""
    if key in ("patch_embedding_pad.weight", "raw2fbank_pad.weight"):
        return "constant ones, which carry the padding mask in OpenBEATs' code; computed here"
    return "not a key of BEATs"


def training_notes(cfg: Mapping[str, Any]) -> list[str]:
    """Names the settings of training that the model does not have."""
    names = [name for name in TRAINING_SETTINGS if cfg.get(name)]
    return [f"cfg has {name}={cfg[name]}, a setting of its training code that is not carried over" for name in names]


def convert_beats(
    tensors: Mapping[str, torch.Tensor], entries: Mapping[str, Any]
) -> tuple[BeatsPreTrainedModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts a released BEATs checkpoint: [`BeatsForAudioClassification`] where it has a head, else [`BeatsModel`].

    Args:
        tensors: Tensors by key, without the wrapper.
        entries: What the file holds beside them: `cfg` and, of fine-tuned models, `label_dict`.

    Returns:
        The model (float32), its feature extractor and the report of keys. Where `report.missing` is not empty, the
        model must not be used; the command refuses to write it.

    Raises:
        CheckpointError: the file is not a BEATs checkpoint, or contradicts itself.
    """
    cfg = entries.get("cfg")
    if not isinstance(cfg, Mapping) or not {"max_distance", "deep_norm"} <= cfg.keys():
        raise CheckpointError(
            "The checkpoint has no cfg with max_distance and deep_norm, which its tensors do not show: convert the "
            "file that the authors released."
        )
    fields = {"max_bucket_distance": cfg["max_distance"], "deep_norm": cfg["deep_norm"], "token_padding": "all"}
    model, report = convert_layout(tensors, cfg, entries.get("label_dict"), "predictor", fields)
    report.notes += training_notes(cfg)
    extractor = front_end("beats", max_length=model.config.max_length, patch_size=model.config.patch_size)
    return model, extractor, report


def convert_openbeats(
    tensors: Mapping[str, torch.Tensor],
    entries: Mapping[str, Any],
    mean: float | None = None,
    std: float | None = None,
    max_distance: int | None = None,
) -> tuple[BeatsPreTrainedModel, AudioMAEFeatureExtractor, KeyReport]:
    """Converts an OpenBEATs checkpoint: [`BeatsForAudioClassification`] where it has a head, else [`BeatsModel`].

    Args:
        tensors: Tensors by key, without the wrapper.
        entries: What the file holds beside them; `cfg`, if there is one, may be partial.
        mean: Mean of the log-mels; `fbank_mean` of `cfg` by default, and BEATs' statistics where that is absent.
        std: Standard deviation of the log-mels; likewise `fbank_std`.
        max_distance: Distance from which on relative positions share a bucket; that of `cfg` by default, and 800, as
            released, where that is absent.

    Returns:
        See [`convert_beats`].

    Raises:
        CheckpointError: the file is not an OpenBEATs checkpoint, or contradicts itself.
    """
    cfg = entries.get("cfg") or {}
    notes: list[str] = []

    def setting(name: str, given: Any, default: Any) -> Any:
        if given is None and name not in cfg:
            notes.append(f"the checkpoint does not record {name}: {default} is assumed")
        return cfg.get(name, default) if given is None else given

    if "encoder.patch_embedding.weight" in tensors:  # fine-tuned: the encoder is a part of a larger model
        tensors = {key.removeprefix("encoder."): value for key, value in tensors.items()}
    fields = {
        "max_bucket_distance": setting("max_distance", max_distance, MAX_DISTANCE),
        "deep_norm": setting("deep_norm", None, True),
        "token_padding": "any",
    }
    statistics = {"mean": setting("fbank_mean", mean, BEATS_MEAN), "std": setting("fbank_std", std, BEATS_STD)}
    model, report = convert_layout(tensors, cfg, entries.get("label_dict"), "decoder.linear_out", fields)
    report.notes += [*notes, *training_notes(cfg)]
    sizes = {"max_length": model.config.max_length, "patch_size": model.config.patch_size}
    return model, front_end("openbeats", **sizes, **statistics), report


CHANGES = "the weight normalisation of the position convolution is multiplied out, all other values are unchanged"
BEATS = System(
    convert=convert_beats,
    licence="mit",
    licence_note="Code and weights of BEATs (microsoft/unilm) are under the MIT licence.",
    citation='Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023, arXiv 2212.09058.',
    tags=("audio", "beats"),
    changes=CHANGES,
)
OPENBEATS = System(
    convert=convert_openbeats,
    licence="cc-by-4.0",
    licence_note=(
        "The model cards of the released weights (espnet/OpenBEATS-*) state CC BY 4.0: see the card of the checkpoint "
        "that was converted.\nThe openbeats library is under the MIT licence by its metadata, ESPnet under Apache-2.0."
    ),
    remarks=(
        "Which mean and standard deviation of the log-mels the released weights were trained with is unresolved: the "
        "code falls\nback to those of BEATs (15.41663 and 6.55582) where a checkpoint records none, ESPnet's README has"
        " 15.29130 and 5.90532\nfor its own training. `preprocessor_config.json` has those that were used here."
    ),
    citation='Bharadwaj et al., "OpenBEATs: A Fully Open-Source General-Purpose Audio Encoder", arXiv 2507.14129.',
    tags=("audio", "beats", "openbeats"),
    changes=CHANGES,
)

__all__ = ["BEATS", "OPENBEATS", "convert_beats", "convert_openbeats"]
