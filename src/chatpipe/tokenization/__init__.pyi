from .encoder import Encoder as Encoder
from .text_encoder import TextEncoder as TextEncoder
from .tokenized import Tokenized as Tokenized
from .tokenized import TokenizedRow as TokenizedRow
