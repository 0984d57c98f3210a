"""Supervised fine-tuning: an encoder and a linear layer on its pooled output, trained together on labelled clips."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
