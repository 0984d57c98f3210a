"""Audio in: paths, bytes, file objects, arrays and datasets' values to mono float32, whole or in blocks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
