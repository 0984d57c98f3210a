"""Shared by pretraining, tuning and fine-tuning: trainer, checkpoints, augmentations, the encoder contract."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
