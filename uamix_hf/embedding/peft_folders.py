"""Encoders with adapters of peft, such as LoRA: merged into ordinary ones, and in folders of their own."""

import copy
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME
from transformers.utils.hub import extract_commit_hash

from .layers import EncoderError, base_of
from .settings import find_file

# In the folder of a tuned encoder, the one of its adapter alone.
FOLDER = "adapter"
# Arguments of from_pretrained that locate the adapter, and not its base.
PLACE = ("revision", "code_revision", "subfolder")


class AdapterBase(NamedTuple):
    """Encoder that adapters belong to: folder or Hub repository, and its commit, or None for the main branch."""

    name: str
    revision: str | None

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Keywords of `from_pretrained` for the encoder, from those that were given for the adapters."""
        kept = {name: value for name, value in given.items() if name not in PLACE}
        return kept | ({} if self.revision is None else {"revision": self.revision})


def has_adapters(encoder: Any) -> bool:
    """Whether an encoder has adapters, in a `PeftModel` or by `add_adapter`."""
    return hasattr(encoder, "get_base_model") or getattr(encoder, "_hf_peft_config_loaded", False)


def require_peft(wanted: str) -> None:
    """Checks that peft is installed.

    Raises:
        ImportError: It is not; the message says what needs it.
    """
    if find_spec("peft") is None:
        raise ImportError(f"{wanted} needs peft: pip install 'uamix_hf[peft]'.")


def merged(encoder: Any) -> PreTrainedModel:
    """A copy of an encoder with its adapters added to its weights: an ordinary encoder, which needs no peft.

    Args:
        encoder: An encoder with adapters.

    Raises:
        ValueError: Adapters that cannot be merged, or weights that are not finite.
    """
    copied = copy.deepcopy(encoder)
    if hasattr(copied, "merge_and_unload"):
        return copied.merge_and_unload(safe_merge=True)
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(copied.named_modules()):  # as merge_and_unload does, for those of add_adapter
        if isinstance(module, ModulesToSaveWrapper):
            copied.set_submodule(name, module.unload_and_optionally_merge_module(True, True, None))
        elif isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            copied.set_submodule(name, module.get_base_layer())
    copied._hf_peft_config_loaded = False
    del copied.peft_config
    return copied


def save_adapters(encoder: Any, folder: str | os.PathLike) -> None:
    """Saves the adapters of an encoder alone.

    Args:
        encoder: The encoder.
        folder: Folder, created if it does not exist.
    """
    encoder.save_pretrained(os.fspath(folder))
    (Path(folder) / "README.md").unlink(missing_ok=True)  # peft's template, of which nothing is filled in


def remove_adapters(folder: str | os.PathLike) -> None:
    """Removes the adapters that an earlier run left in a folder, which loading would add to the weights there."""
    for name in (ADAPTER_CONFIG_NAME, "adapter_model.safetensors"):
        (Path(folder) / name).unlink(missing_ok=True)
    if (Path(folder) / FOLDER / ADAPTER_CONFIG_NAME).is_file():
        shutil.rmtree(Path(folder) / FOLDER)


def adapter_base(name_or_path: str, **location: Any) -> AdapterBase | None:
    """The encoder that the adapters of a folder belong to; None where it holds none.

    Args:
        name_or_path: Folder or Hub repository.
        **location: Keywords of `from_pretrained` that locate a file.

    Raises:
        EncoderError: The adapters do not say what they belong to.
    """
    path = find_file(name_or_path, ADAPTER_CONFIG_NAME, location)
    if path is None:
        return None
    recorded = json.loads(Path(path).read_text(encoding="utf-8"))
    if not recorded.get("base_model_name_or_path"):
        raise EncoderError(
            f"{name_or_path} holds adapters of an encoder that was loaded from nowhere (base_model_name_or_path): load "
            "that yourself, then PeftModel.from_pretrained(encoder, folder)."
        )
    return AdapterBase(recorded["base_model_name_or_path"], recorded.get("revision"))


def load_config(name_or_path: str, **options: Any) -> tuple[PreTrainedConfig, AdapterBase | None]:
    """Loads the configuration of an encoder, and says where it is if the folder holds adapters alone.

    Args:
        name_or_path: Folder or Hub repository.
        **options: Keywords of `AutoConfig.from_pretrained`.

    Raises:
        OSError: No such folder or repository, or none of the encoder that the adapters belong to.
        EncoderError: The adapters do not say what they belong to.
    """
    try:
        return AutoConfig.from_pretrained(name_or_path, **options), None
    except (OSError, ValueError):  # a folder without config.json is one of an unknown model
        base = adapter_base(name_or_path, **options)
        if base is None:
            raise
    try:  # which may be a folder of adapters, too
        return load_config(base.name, **base.options(options))[0], base
    except OSError as error:
        raise OSError(f"{name_or_path} holds adapters of {base.name}, which does not load: {error}") from error


def merge_folder(encoder: PreTrainedModel, name_or_path: str, **location: Any) -> PreTrainedModel:
    """Adds the adapters of a folder to the weights of their encoder.

    The encoder is then one of that folder: adapters that it gets later belong to it, and not to the encoder alone.

    Args:
        encoder: The encoder, which is changed.
        name_or_path: Folder or Hub repository of the adapters.
        **location: Keywords of `from_pretrained` that locate them.

    Raises:
        ImportError: peft is not installed.
        EncoderError: They are of another encoder.
    """
    require_peft(f"{name_or_path}, a folder of adapters,")
    from peft import PeftModel

    try:
        loaded = PeftModel.from_pretrained(encoder, name_or_path, **location)
    except (RuntimeError, ValueError) as error:
        raise EncoderError(
            f"The adapters of {name_or_path} do not fit {type(base_of(encoder)).__name__} of {encoder.name_or_path}: "
            f"{error}"
        ) from error
    encoder = loaded.merge_and_unload(safe_merge=True)
    encoder.name_or_path = encoder.config.name_or_path = name_or_path
    path = find_file(name_or_path, ADAPTER_CONFIG_NAME, location)
    encoder.config._commit_hash = extract_commit_hash(path, None)
    return encoder


def check_target(base: str | None, folder: str | os.PathLike) -> None:
    """Checks that saving an encoder with adapters to a folder keeps the encoder that the adapters belong to.

    Args:
        base: Folder or Hub repository of that encoder.
        folder: Where the merged encoder and its adapters will be saved.

    Raises:
        EncoderError: It is there, and would be overwritten.
    """
    target = Path(folder).resolve()
    if base and Path(base).is_dir() and Path(base).resolve() in (target, target / FOLDER):
        raise EncoderError(
            f"{os.fspath(folder)} has the encoder that the adapters belong to, {base}: saving there would overwrite "
            "it, and the adapters would be added to weights that have them already. Give another folder."
        )


__all__ = [
    "FOLDER",
    "AdapterBase",
    "adapter_base",
    "check_target",
    "has_adapters",
    "load_config",
    "merge_folder",
    "merged",
    "remove_adapters",
    "require_peft",
    "save_adapters",
]
