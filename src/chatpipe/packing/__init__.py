"""Batches of rows: packed into one row where none sees another, or padded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
