"""Makes timm and lightly importable, from .peers/ where `make peers` put them, or as they are installed."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[1] / ".peers"
# Operators that torchvision's Python declares shapes of, and that its compiled part defines.
OPERATORS = ("nms", "qnms")


class PeerAbsentError(ModuleNotFoundError):
    """A library that we are compared with is not installed; the message says how to."""


def find_peers(folder: Path = FOLDER) -> None:
    """Puts `folder` at the end of the search path.

    Both libraries import torchvision for operators on images. Where its compiled part cannot be loaded (a build for
    CUDA beside torch for the CPU), importing it fails at the first operator that is not defined; they are declared
    here, without code, and none of them is called: the peers read no images.

    Raises:
        PeerAbsentError: timm, lightly or torchvision is not there.
    """
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    absent = [name for name in ("timm", "lightly", "torchvision") if importlib.util.find_spec(name) is None]
    if absent:
        raise PeerAbsentError(f"{', '.join(absent)}: not installed; `make peers` installs what is compared with.")
    if "torchvision" not in sys.modules and not compiled_part_loads():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)  # its operators end with it


_declared: list[torch.library.Library] = []


def compiled_part_loads() -> bool:
    """Whether torchvision's operators are there, once its compiled part has been loaded if it can be."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations
    for compiled in Path(spec.submodule_search_locations[0]).glob("_C*"):
        with contextlib.suppress(OSError):  # it is linked to libraries of CUDA that are not here
            torch.ops.load_library(str(compiled))
    return all(hasattr(torch.ops.torchvision, name) for name in OPERATORS)
