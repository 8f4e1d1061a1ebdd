from .contact_sheet import write_gallery as write_gallery
from .contact_sheet import write_sheet as write_sheet
from .retrieval import evaluate_retrieval as evaluate_retrieval
from .search import Neighbour as Neighbour
from .search import format_neighbours as format_neighbours
from .search import search_id as search_id
from .search import search_photo as search_photo
