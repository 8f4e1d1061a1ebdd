from .class_output import format_classes as format_classes
from .class_output import write_class_sheet as write_class_sheet
from .class_output import write_classes as write_classes
from .classification import Classified as Classified
from .classification import classify as classify
