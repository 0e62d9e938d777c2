"""A tokenizer in a GGUF file: llama.cpp has tokenizers of its own, which are told what to do by a
name (`tokenizer.ggml.pre`) or, of SentencePiece, by the score of every token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatpipe.errors import ExportError
from chatpipe.export.gguf_architectures import ELSEWHERE

if TYPE_CHECKING:
    from gguf import GGUFWriter

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_CONTROL, _NORMAL, _UNKNOWN, _USER_DEFINED, _UNUSED, _BYTE_TYPE = 3, 1, 2, 4, 5, 6


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as a GGUF file has it.

    kind: gpt2 (byte-level BPE) or llama (SentencePiece); pre: how text is cut; scores: of
    SentencePiece; add_bos: whether BOS stands before every text.
    """

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    add_bos: bool
    add_space_prefix: bool
    special: dict[str, int]

    def write(self, writer: GGUFWriter) -> None:
        """Write it into the file's header."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.add_space_prefix)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(False)
        for name, number in self.special.items():
            getattr(writer, f"add_{name}_token_id")(number)


def vocabulary(tokenizer: Any, rows: int, stops: list[int], add_bos: bool) -> Vocabulary:
    """A tokenizer for a model with that many rows in its embedding; ExportError where llama.cpp
    has no tokenizer of its kind, or one that gives other ids.

    stops: the ids that end a reply, EOS first; add_bos: whether BOS stands before every text.
    """
    content = _content(tokenizer)
    model = content["model"]
    kind = _kind(content)
    if kind is None:
        raise ExportError(
            f"the tokenizer is a {model['type']} that is not written as GGUF here (byte-level BPE "
            f"and SentencePiece's BPE are); {ELSEWHERE}."
        )
    tokens, types = _tokens(tokenizer, content, kind, rows)
    merges = [" ".join(pair) if not isinstance(pair, str) else pair for pair in model["merges"]]
    special = {"eos": stops[0]}
    if len(stops) > 1:
        special["eot"] = stops[1]
    for name in ("bos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            special[name] = int(number)
    return Vocabulary(
        kind=kind,
        pre="default" if kind == "llama" else _pre_tokenizer(content),
        tokens=tokens,
        types=types,
        merges=merges,
        scores=_scores(tokens, merges) if kind == "llama" else [],
        add_bos=add_bos,
        add_space_prefix=_adds_space(content),
        special=special,
    )


def _content(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(f"the tokenizer has no tokenizer.json; {ELSEWHERE}.")
    return dict(json.loads(backend.to_str()))


def _kind(content: dict[str, Any]) -> str | None:
    if content["model"]["type"] != "BPE":
        return None
    if any(part["type"] == "ByteLevel" for part in _parts(content.get("pre_tokenizer"))):
        return "gpt2"
    return "llama" if content["model"].get("byte_fallback") else None


def _parts(section: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The parts of a normalizer or a pre-tokenizer."""
    if section is None:
        return
    if section["type"] != "Sequence":
        yield section
    for part in section.get("pretokenizers") or section.get("normalizers") or ():
        yield from _parts(part)


def _pre_tokenizer(content: dict[str, Any]) -> str:
    """llama.cpp's name of how text is cut."""
    parts = list(_parts(content["pre_tokenizer"]))
    patterns = [str(part.get("pattern")) for part in parts if part["type"] == "Split"]
    if any(r"\p{Lu}" in pattern for pattern in patterns):
        return "tekken"
    if any(r"\p{N}{1,3}" in pattern for pattern in patterns):
        return "llama-bpe"
    if patterns:
        return "qwen2"
    return "smollm" if any(part["type"] == "Digits" for part in parts) else "gpt-2"


def _adds_space(content: dict[str, Any]) -> bool:
    """Whether a space is put before a text."""
    parts = [*_parts(content.get("normalizer")), *_parts(content.get("pre_tokenizer"))]
    return any(
        part["type"] == "Prepend"
        or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )


def _tokens(
    tokenizer: Any, content: dict[str, Any], kind: str, rows: int
) -> tuple[list[str], list[int]]:
    """The token of every row and its type; a row without a token is unused."""
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [_UNUSED] * rows
    for text, number in content["model"]["vocab"].items():
        if number < rows:
            tokens[number] = text
            is_byte = kind == "llama" and _BYTE.fullmatch(text)
            types[number] = _BYTE_TYPE if is_byte else _NORMAL
    special = set(tokenizer.all_special_ids)
    for number, added in tokenizer.added_tokens_decoder.items():
        if number < rows:
            tokens[number] = added.content
            types[number] = _CONTROL if added.special or number in special else _USER_DEFINED
    unknown = tokenizer.unk_token_id
    if kind == "llama" and unknown is not None and unknown < rows:
        types[unknown] = _UNKNOWN
    return tokens, types


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece merges what has the highest score first: the earlier merges. What no merge
    makes comes last."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks.get(token, len(merges) + number)) for number, token in enumerate(tokens)]
