"""Single entry point for loading audio: files, bytes, arrays and datasets' values to mono float32 samples."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
