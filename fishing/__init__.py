"""Gradient features from deep nets (Gordo, Gaidon and Perronnin, BMVC 2015)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fishing.estimators import GradientFeatures, TraceKernel, paired
    from fishing.kernel import gram
    from fishing.store import load

__version__ = "0.1.0"
__all__ = ["GradientFeatures", "TraceKernel", "gram", "load", "paired"]

_MODULES = {
    "GradientFeatures": "estimators",
    "TraceKernel": "estimators",
    "gram": "kernel",
    "load": "store",
    "paired": "estimators",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: the libraries behind it take a second."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'fishing' has no attribute '{name}'")
    return getattr(import_module(f"fishing.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
