from .export import export_directory as export_directory
from .export import export_report as export_report
from .export import export_variant as export_variant
from .loading import load_study as load_study
from .loading import load_variant as load_variant
from .loading import parse_variant as parse_variant
from .lookup import Published as Published
from .verification import check_all as check_all
