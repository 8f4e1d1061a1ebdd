"""Gradient features from deep nets (Gordo, Gaidon and Perronnin, BMVC 2015)."""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
