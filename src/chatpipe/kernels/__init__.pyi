from .cross_entropy import token_nats as token_nats
from .dequantize import dequantize_if_it_fits as dequantize_if_it_fits
from .lora_inference import active as active
from .lora_inference import can_mix as can_mix
from .lora_inference import row_by_row as row_by_row
from .lora_training import joined_products as joined_products
from .sparse_dropout import SparseDropout as SparseDropout
