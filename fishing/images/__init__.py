"""Data sets: lists of images with their labels, and the pixels of each image."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
