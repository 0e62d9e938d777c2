from .packing import Pack as Pack
from .packing import example_nats as example_nats
from .packing import pack as pack
from .packing import packed_attention as packed_attention
from .packing import packed_nats as packed_nats
from .packing import packs as packs
