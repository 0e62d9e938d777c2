"""Row formats, one a module: the columns that each needs, and how they become an example."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
