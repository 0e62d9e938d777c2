"""A Prefect server: what is deployed on it, and one on this machine with its workers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
