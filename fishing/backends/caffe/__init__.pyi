from .backend import CaffeBackend as CaffeBackend
