"""Token ids of prompts and responses in files that are memory-mapped, known by their content.

What the same tokenizer and template made of the same texts is found again, whoever asks. A file
that nobody has asked for in a month is removed when another is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chatpipe.artifacts import home
from chatpipe.config import PromptTemplate
from chatpipe.data.ids import text_digests
from chatpipe.data.parallel import in_order
from chatpipe.prompts import segments
from chatpipe.text_encoding import TextEncoder

VERSION = 2  # raised when the same texts would give other ids
TEXTS = ("instruction", "input", "output")
ROWS_AT_ONCE = 1 << 10
UNUSED_S = 30 * 24 * 3600
SCHEMA = pa.schema([(name, pa.list_(pa.int32())) for name in ("prompt", "response")])

Ids = npt.NDArray[np.int32]


class TokenFile:
    """(prompt, response) token ids of every row, read where they are asked for."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            parts = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._parts = [tuple(_flat(part[name]) for name in SCHEMA.names) for part in parts]
        self._starts = np.cumsum([0, *(part.num_rows for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> tuple[Ids, Ids]:
        part = int(np.searchsorted(self._starts, row, "right")) - 1
        place = row - int(self._starts[part])
        prompt, response = (ids[ends[place] : ends[place + 1]] for ends, ids in self._parts[part])
        return prompt, response

    def lengths(self) -> npt.NDArray[np.int64]:
        """(rows, 2): the tokens of every prompt and of every response."""
        each = [np.stack([np.diff(ends) for ends, _ in part], axis=1) for part in self._parts]
        return np.concatenate([np.zeros((0, 2), np.int64), *each])


def token_file(
    tokenizer: Any, template: PromptTemplate, tables: Iterable[pa.Table], digest: str
) -> TokenFile:
    """The file of those rows, whose texts have that digest; made where there is none yet."""
    path = home() / "cache" / "tokens" / f"{_key(tokenizer, template, digest)}.arrow"
    if not _found(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(path.parent)
        partial = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            _write(partial, tokenizer, template, tables)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return TokenFile(path)


def _found(path: Path) -> bool:
    """Whether the file is there; it then counts as used."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # another user's, or on a disk that cannot be written to
        pass
    return True


def _remove_unused(folder: Path) -> None:
    """Those that were never finished go too. Whoever still reads one keeps what is mapped."""
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - file.stat().st_mtime > UNUSED_S:
                file.unlink()


def digest_of(tables: Iterable[pa.Table]) -> str:
    """What the texts of those rows are known by, however they are cut into tables."""
    found = hashlib.sha256()
    for table in tables:
        found.update(text_digests(table, TEXTS))
    return found.hexdigest()


def _write(
    path: Path, tokenizer: Any, template: PromptTemplate, tables: Iterable[pa.Table]
) -> None:
    # A tokenizer's first call sets it up; after it, several threads may use it.
    encoder = TextEncoder(tokenizer)
    encoder.texts(["a"])

    def encode(batch: pa.RecordBatch) -> pa.RecordBatch:
        instructions, inputs, outputs = (batch[name].to_pylist() for name in TEXTS)
        pairs = zip(instructions, inputs, strict=True)
        prompts = encoder.prompts([segments(template, *pair) for pair in pairs])
        columns = (prompts, encoder.texts(outputs))
        return pa.record_batch([pa.array(c, pa.list_(pa.int32())) for c in columns], schema=SCHEMA)

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in in_order(encode, _pieces(tables)):
            writer.write_batch(batch)


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.to_batches(max_chunksize=ROWS_AT_ONCE)


def _key(tokenizer: Any, template: PromptTemplate, digest: str) -> str:
    asked = [VERSION, _tokenizer_digest(tokenizer), template.model_dump(mode="json"), digest]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:40]


def _tokenizer_digest(tokenizer: Any) -> str:
    """Of all that decides its ids; padding and truncation do not."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one in Python
        whole = {"says": repr(tokenizer), "vocabulary": tokenizer.get_vocab()}
    else:
        whole = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _flat(column: pa.ListArray) -> tuple[Ids, Ids]:
    """(ends, ids) without a copy."""
    return column.offsets.to_numpy(), column.values.to_numpy()
