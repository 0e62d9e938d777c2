"""ShareGPT conversations: the last human turn → instruction, the answer to it → output.

A row: {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}

Turns may be spelled with role and content, too; all else is as in the format `messages`.
"""

from __future__ import annotations

from chatpipe.formats.messages import format_of_turns

FORMAT = format_of_turns("conversations")
