from .exporting import export as export
from .forms import Settings as Settings
from .source import Source as Source
