from .gate import Regression as Regression
from .gate import Verdict as Verdict
from .history import Entry as Entry
from .trend import write_page as write_page
