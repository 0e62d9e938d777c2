from .base import Column as Column
from .base import Format as Format
from .registry import FORMATS as FORMATS
