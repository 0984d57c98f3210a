"""LoRA: small adapters in an encoder's layers are tuned instead of its weights."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from ..data.checks import refuse_idle
from ..embedding.embedder import AudioEmbedder
from ..embedding.encoders import base_of
from ..embedding.kinds import make_adapter
from ..embedding.peft_folders import has_adapters, require_peft


class LoraError(ValueError):
    """Settings of LoRA that an encoder cannot have, or adapters that would have no effect."""


@dataclass
class LoraArguments:
    """Whether an encoder is tuned by LoRA, and how.

    Args:
        lora_r: Rank of the adapters; None tunes the weights themselves.
        lora_alpha: Adapters' outputs are multiplied by `lora_alpha / lora_r`; None: by 1.
        lora_dropout: Dropout of the adapters' inputs.
        lora_target_modules: Linear layers that get adapters, by the ends of their names, such as `q_proj v_proj`;
            all those in the encoder's layers that are not frozen by default.

    Raises:
        ValueError: A value out of range, or settings without `lora_r`.
    """

    lora_r: int | None = field(
        default=None, metadata={"help": "Tune by LoRA adapters of this rank, such as 8; all weights if unset."}
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "Adapters' outputs are multiplied by lora_alpha / lora_r; by 1 if unset."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapters' inputs."})
    lora_target_modules: list[str] = field(
        default_factory=list,
        metadata={"help": "Linear layers with adapters, by the ends of their names, such as q_proj; all if unset."},
    )

    def __post_init__(self) -> None:
        if self.lora_r is None:
            refuse_idle(self, ("lora_alpha", "lora_dropout", "lora_target_modules"), "lora_r")
            return
        if self.lora_r < 1:
            raise ValueError(f"lora_r={self.lora_r}: the rank is at least 1.")
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            raise ValueError(f"lora_alpha={self.lora_alpha}: a number above 0 is needed.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout} is outside [0, 1).")

    def config(self) -> Any:
        """The `LoraConfig` of peft; None without `lora_r`.

        Raises:
            ImportError: peft is not installed.
        """
        if self.lora_r is None:
            return None
        require_peft("lora_r")
        from peft import LoraConfig

        alpha: Any = self.lora_r if self.lora_alpha is None else self.lora_alpha
        targets = self.lora_target_modules or None
        return LoraConfig(r=self.lora_r, lora_alpha=alpha, lora_dropout=self.lora_dropout, target_modules=targets)


def lora_config(lora: Any) -> Any:
    """The `LoraConfig` of what users give; None for none.

    Raises:
        TypeError: Another object.
    """
    if isinstance(lora, LoraArguments):
        return lora.config()
    if lora is not None and not hasattr(lora, "peft_type"):
        raise TypeError(f"lora is a {type(lora).__name__}: give LoraArguments, or a LoraConfig of peft.")
    return lora


def add_lora(encoder: Any, lora: Any, feature_extractor: Any, layers_path: str | None = None, frozen: int = 0) -> Any:
    """Wraps an encoder in a `PeftModel` with fresh adapters, which change nothing yet.

    Weights of a pooling, which are few and not pretrained, are trained themselves.

    Args:
        encoder: The encoder, whose linear layers are replaced.
        lora: `LoraConfig` of peft. Without `target_modules`, all linear layers of the encoder's layers get adapters.
        feature_extractor: Its feature extractor, with which it is run once.
        layers_path: Path of its list of layers; searched if None.
        frozen: Lower layers without adapters.

    Raises:
        LoraError: The encoder has adapters already, or no such layers.
    """
    from peft import get_peft_model

    if has_adapters(encoder):
        raise LoraError(f"{type(encoder).__name__} has adapters already: leave lora out, or give the encoder alone.")
    lora, config = copy.deepcopy(lora), encoder.config
    found = linear_layers(encoder, feature_extractor, layers_path, frozen)
    named = lora.target_modules
    if not named or named == "all-linear":
        lora.target_modules = found
    elif not isinstance(named, str):  # a pattern is peft's to interpret
        lora.target_modules = choose(sorted(named), found, type(encoder).__name__)
    if not lora.target_modules:
        raise LoraError(f"{type(encoder).__name__} has no linear layers above the {frozen} frozen layers.")
    if learnt := make_adapter(encoder, layers_path).learnt_pooling():
        lora.modules_to_save = sorted({*(lora.modules_to_save or ()), *learnt})
    wrapped = get_peft_model(encoder, lora, revision=getattr(config, "_commit_hash", None))
    check_adapters(wrapped, feature_extractor, layers_path)
    return wrapped


def choose(names: list[str], found: list[str], encoder: str) -> list[str]:
    """Layers whose path is or ends in one of the names.

    Raises:
        LoraError: A name is that of no layer.
    """
    chosen = {name: [path for path in found if path == name or path.endswith(f".{name}")] for name in names}
    if missing := [name for name, paths in chosen.items() if not paths]:
        raise LoraError(
            f"lora_target_modules: {encoder} has no linear layer {', '.join(missing)} in the layers that are tuned, "
            f"only {ends(found)}."
        )
    return sorted({path for paths in chosen.values() for path in paths}, key=found.index)


def ends(paths: list[str]) -> str:
    """Last parts of paths, for a message or a card."""
    return ", ".join(sorted({path.rpartition(".")[2] for path in paths})) or "none"


def linear_layers(encoder: Any, feature_extractor: Any, layers_path: str | None, frozen: int) -> list[str]:
    """Paths of the linear layers above the frozen layers that the encoder calls.

    An adapter in a layer whose weight is read without calling it, as WavLM's attention does, would have no effect.
    """
    adapter = make_adapter(encoder, layers_path)
    inside = {module for layer in adapter.layers[frozen:] for module in layer.modules()}
    linear = {
        name: module for name, module in encoder.named_modules() if isinstance(module, nn.Linear) and module in inside
    }
    called = called_modules(encoder, list(linear.values()), feature_extractor, layers_path)
    return [name for name, module in linear.items() if module in called]


def check_adapters(encoder: Any, feature_extractor: Any, layers_path: str | None = None) -> None:
    """Checks that the encoder calls each of its adapters.

    Raises:
        LoraError: It does not call one.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = base_of(encoder)
    tuners: dict[str, Any] = {
        name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)
    }
    called = called_modules(encoder, list(tuners.values()), feature_extractor, layers_path)
    if idle := [name for name, module in tuners.items() if module not in called]:
        found = [name for name, module in tuners.items() if module in called]
        raise LoraError(
            f"{type(base).__name__} does not call {idle[0]}{f' and {len(idle) - 1} more layers' * (len(idle) > 1)}: it "
            "reads their weights, or computes no embedding from them, so that adapters there would have no effect. "
            f"Of those with adapters it calls {ends(found)}; lora_r without target modules finds all that it calls."
        )


def called_modules(
    encoder: Any, modules: list[nn.Module], feature_extractor: Any, layers_path: str | None
) -> set[nn.Module]:
    """Which of the modules an encoder calls to embed half a second of noise."""
    training = [module for module in encoder.modules() if module.training]
    embedder, called = AudioEmbedder(encoder, feature_extractor, layers_path), set[nn.Module]()
    rate = embedder.feature_extractor.sampling_rate
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, rate // 2).astype(np.float32)
    handles = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in modules]
    try:
        embedder.encode(noise, progress_bar=False)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return called


def adapter_settings(encoder: Any) -> dict[str, Any]:
    """Settings of an encoder's adapters, for the card; empty without adapters."""
    if not has_adapters(encoder):
        return {}
    settings: dict[str, Any] = {}
    for config in encoder.peft_config.values():
        settings["adapter"] = config.peft_type.value
        for name in ("r", "lora_alpha", "lora_dropout"):
            if hasattr(config, name):
                settings[f"lora_{name.removeprefix('lora_')}"] = getattr(config, name)
        targets = config.target_modules
        settings["lora_target_modules"] = targets if isinstance(targets, str) else ends(list(targets or ()))
    return settings


__all__ = ["LoraArguments", "LoraError", "adapter_settings", "add_lora", "check_adapters", "lora_config"]
