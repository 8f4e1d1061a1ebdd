from .import_net import ImportedNet as ImportedNet
from .import_net import import_caffe as import_caffe
from .import_net import import_onnx as import_onnx
from .in_memory import compute_blobs as compute_blobs
from .temperature import temper as temper
from .to_file import Extracted as Extracted
from .to_file import extract as extract
from .to_file import one_product_advice as one_product_advice
