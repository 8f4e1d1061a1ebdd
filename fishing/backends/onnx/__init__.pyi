from .backend import OnnxBackend as OnnxBackend
from .export import export as export
