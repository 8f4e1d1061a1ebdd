"""Gradient features from deep nets (Gordo, Gaidon and Perronnin, BMVC 2015)."""

__version__ = "0.1.0"
