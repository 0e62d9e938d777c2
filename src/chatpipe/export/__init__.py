"""A trained model written for other programs, and compared with the one that chatpipe asks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
