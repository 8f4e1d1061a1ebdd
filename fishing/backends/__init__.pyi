from .choose import BACKENDS as BACKENDS
from .choose import check_run as check_run
from .choose import choose_backend as choose_backend
from .choose import open_backend as open_backend
from .devices import parse_device as parse_device
from .interface import Backend as Backend
from .onnx.check_products import check_products as check_products
from .workers import run_ahead as run_ahead
