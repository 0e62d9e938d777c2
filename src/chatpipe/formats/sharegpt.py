"""ShareGPT conversations: the first human turn → instruction, the answer to it → output.

A row: {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}

Turns may be spelled with role and content, too; all else is as in the format `messages`.
"""

from __future__ import annotations

import pyarrow as pa

from chatpipe.formats import messages
from chatpipe.formats.base import Column, Format

FORMAT = Format(
    columns={
        "conversations": Column(pa.list_(messages.TURN), from_value=messages.turns_from_value)
    },
    normalize=lambda table: messages.first_exchanges(table["conversations"]),
    unusable=messages.UNUSABLE,
    version=messages.VERSION,
)
