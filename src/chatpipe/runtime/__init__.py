"""Worker processes, their signals, progress and failures, and the environment of libraries."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
