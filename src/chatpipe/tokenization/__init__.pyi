from .encoder import Encoder as Encoder
from .encoder import Tokenized as Tokenized
from .encoder import TokenizedRow as TokenizedRow
from .text_encoder import TextEncoder as TextEncoder
