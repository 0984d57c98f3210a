"""Versions of this package and of those that results depend on."""

import importlib.metadata

__version__ = "0.1.0"

PACKAGES = (
    "torch", "transformers", "datasets", "accelerate", "evaluate", "huggingface-hub", "safetensors", "numpy",
    "scikit-learn", "soundfile", "soxr", "torchaudio", "torchcodec",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Versions by name: this package first, then those of `PACKAGES` that are installed."""
    versions = {"uamix_hf": __version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


__all__ = ["PACKAGES", "__version__", "package_versions"]
