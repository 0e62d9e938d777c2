"""The tokenizer beside an adapter that was trained elsewhere, compared with its base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatpipe.models.library_messages import first_line, quiet_transformers
from chatpipe.training.adapter_files import CHAT_TEMPLATE, TOKENIZER_FILES
from chatpipe.utils.quantities import count_of
from chatpipe.utils.sentences import listed

_TEXTS = ("A fox, 12 foxes.", "  two\n\nlines\t", "def f(x):\n    return x ** 2", "né 北京 ☃ 🦊")


def tokenizer_notes(directory: Path, base: Any) -> list[str]:
    """How the tokenizer in that directory differs from the base's, which is the one that is used;
    nothing where there is none."""
    own = load_beside(directory)
    if own is None:
        return []
    if isinstance(own, str):
        return [f"the tokenizer beside the adapter cannot be loaded ({own}); the base's is used."]
    vocabulary, of_base = own.get_vocab(), base.get_vocab()
    added = [token for token, number in vocabulary.items() if of_base.get(token) != number]
    notes = []
    if added:
        tokens = count_of(len(added), "token")
        notes.append(
            f"the tokenizer beside the adapter has {tokens} that the base's has not, or has under "
            f"another id ({listed(sorted(added), 3)}); here they are text, as the base's tokenizer "
            "has it."
        )
    elif any(_ids(own, text) != _ids(base, text) for text in _TEXTS):
        notes.append(
            "the tokenizer beside the adapter divides texts into other tokens than the base's, "
            "which is the one that is used."
        )
    if own.eos_token != base.eos_token:
        notes.append(
            f"the tokenizer beside the adapter ends texts with {own.eos_token!r}, the base's with "
            f"{base.eos_token!r}, which is the one that is used."
        )
    return notes


def load_beside(directory: Path) -> Any:
    """The tokenizer in that directory; None where there is none, a text where it cannot be
    loaded. Code of its own is never run."""
    from transformers import AutoTokenizer

    if not any((directory / name).is_file() for name in TOKENIZER_FILES[:3]):
        return None
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except BaseException as error:  # any, and a panic of the Rust library, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        return first_line(error)


def chat_template_of(directory: Path) -> str | None:
    """The chat template beside the adapter; None where there is none, or several."""
    file = directory / CHAT_TEMPLATE
    if file.is_file():
        return file.read_text("utf-8")
    tokenizer = load_beside(directory)
    template = None if isinstance(tokenizer, str) else getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str) and template.strip() else None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
