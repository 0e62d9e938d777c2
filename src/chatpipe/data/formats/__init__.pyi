from .base import Column as Column
from .base import Format as Format
