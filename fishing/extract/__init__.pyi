from .compress import COMPRESSED_DTYPES as COMPRESSED_DTYPES
from .compress import compress as compress
from .compress import project as project
from .in_memory import compute_blobs as compute_blobs
from .temperature import temper as temper
from .to_file import Extracted as Extracted
from .to_file import extract as extract
