"""chatpipe: what does a base model gain from this data set, from that one, from both?"""

__version__ = "0.1.0"
