"""The endpoint: OpenAI's HTTP interface to a base and adapters on it, over one running batch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
