from .figures import is_in_paper as is_in_paper
from .figures import paper_figures as paper_figures
from .figures import paper_source as paper_source
from .reproduction import reproduce as reproduce
from .submission import write_submission as write_submission
from .tables import Result as Result
from .tables import compare as compare
from .tables import format_tables as format_tables
