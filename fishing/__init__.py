"""Gradient features from deep nets (Gordo, Gaidon and Perronnin, BMVC 2015)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["GradientFeatures", "TraceKernel", "gram", "load", "paired"]

if TYPE_CHECKING:
    from fishing.estimators import GradientFeatures, TraceKernel, paired
    from fishing.similarity import gram
    from fishing.store import load
else:
    # Imported when they are asked for: the libraries behind them take a second.
    _MODULES = {
        "GradientFeatures": "estimators",
        "TraceKernel": "estimators",
        "gram": "similarity",
        "load": "store",
        "paired": "estimators",
    }

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'fishing' has no attribute '{name}'")
        return getattr(import_module(f"fishing.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
