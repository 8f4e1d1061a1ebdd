__version__: str

from .evaluate.estimators import GradientFeatures as GradientFeatures
from .evaluate.estimators import TraceKernel as TraceKernel
from .evaluate.estimators import paired as paired
from .extract.torch_nets import from_torch as from_torch
from .kernels.gram_matrices import gram as gram
from .store.features_file import load as load
from .uses.classification import classify as classify
from .uses.outliers import scores as scores
from .uses.selection import select as select
