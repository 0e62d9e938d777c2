"""Whether llama.cpp's tokenizer gives the ids of the base's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from chatpipe.errors import ExportError
from chatpipe.export import llama_cpp
from chatpipe.export.gguf_architectures import ELSEWHERE
from chatpipe.export.gguf_files import write_vocabulary_file
from chatpipe.export.gguf_tokenizer import Vocabulary

# Names of llama.cpp for how text is cut before merges are applied.
PRE_TOKENIZERS = ("gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "deepseek-llm", "falcon")
# Texts on which tokenizers are known to differ: contractions, digits, runs of spaces and lines,
# scripts without spaces, symbols.
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "I'm sure they've said it's what we'd do; you'll see. WE'RE HERE, DON'T PANIC!",
    "In 1984, 12345 people paid $1,234,567.89 (about 3.14159 %) on 2023-10-05 at 07:30.",
    "x=1;y=22;z=333;w=4444;v=55555;u=666666",
    "def f(a, b):\n    if a > b:\n        return a ** 2\n\n    return {'b': [b, None]}\n",
    "one  two   three    four     five\tsix\t\tseven",
    "first line\nsecond line\n\nthird\n\n\nfourth",
    " a leading space and a trailing one ",
    "https://example.org/path?query=a%20b&c=d#part, user@example.org",
    "Straße, café, naïve, Ångström, Łódź, façade, ½, №, §",
    "Это предложение на русском языке, а это число 42.",
    "今天天气很好，我们去公园散步吧。日本語の文章です。한국어 문장입니다.",
    "مرحبا بالعالم، هذا نص قصير. שלום עולם. नमस्ते दुनिया",
    "🙂🙃 👩‍👩‍👧‍👦 → ≤ ∑ √2 ≈ 1.41421 … — “quoted” ‘text’",
    "camelCaseWord snake_case_word SCREAMING_CASE kebab-case-word",
    "<b>bold</b> &amp; *stars* **two** `code` [link](target) # heading ### Input:",
    "!!! ??? ... --- === ((([[[{{{}}}]]])))",
)


def checked_vocabulary(written: Vocabulary, tokenizer: Any, work: Path) -> Vocabulary:
    """The vocabulary with the way of cutting text that gives the tokenizer's own ids; ExportError
    where none does. Without llama.cpp, the vocabulary as it is."""
    if not llama_cpp.is_installed():
        return written
    expected = tokenizer(list(TEXTS), add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    others = PRE_TOKENIZERS if written.kind == "gpt2" else ()
    different = ""
    for pre in dict.fromkeys((written.pre, *others)):
        candidate = replace(written, pre=pre)
        text = _first_difference(candidate, expected, work)
        if text is None:
            return candidate
        different = different or text
    raise ExportError(
        f"llama.cpp's tokenizer gives other ids than the base's own, as for {different!r}; "
        f"{ELSEWHERE}, and compare its tokens."
    )


def _first_difference(candidate: Vocabulary, expected: list[list[int]], work: Path) -> str | None:
    """A text whose ids are others, by a file that has this vocabulary and hardly any weights."""
    file = work / "vocabulary.gguf"
    write_vocabulary_file(file, candidate)
    answers = llama_cpp.ask(file, texts=TEXTS)
    file.unlink()
    pairs = zip(TEXTS, answers.texts, expected, strict=True)
    return next((text for text, ids, own in pairs if ids != own), None)
