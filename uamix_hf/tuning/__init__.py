"""The uaMix method: mixtures, heads, neighbour queue, loss, the trainer of its two stages, and whitening."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
