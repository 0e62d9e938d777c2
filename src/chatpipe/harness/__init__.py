"""Tasks of lm-evaluation-harness, whose data are stored and whose requests our models answer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
