"""Token ids of rows in files that are memory-mapped, known by their content.

What the same tokenizer and template made of the same texts is found again, whoever asks. A file
that nobody has asked for in a month is removed when another is written. A file's last bytes are the
digest of all before: one that is torn or changed is dropped, and written anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.data.hashing import text_digests
from chatpipe.data.parallel import in_order
from chatpipe.errors import ArtifactError
from chatpipe.store.disk_errors import as_disk_error
from chatpipe.store.paths import home
from chatpipe.tokenization.chat_renderer import renderer_of
from chatpipe.tokenization.conversation import Conversation, history_of
from chatpipe.tokenization.token_rows import SCHEMA, TokenFile, rendered_batch
from chatpipe.utils.file_digests import FileDigests, file_digest

LOG = logging.getLogger(__name__)
VERSION = 4  # raised when the same texts would give other ids
TEXTS = ("instruction", "input", "output")
TURNS = ("system", "history")  # columns that rows without them may lack
ROWS_AT_ONCE = 1 << 10
UNUSED_S = 30 * 24 * 3600
MARKED_EVERY_S = 24 * 3600
MAGIC = b"chatpipe tokens "  # before the digest at a file's end
TRAILER_BYTES = len(MAGIC) + 32

_UNFINISHED = re.compile(r"[0-9a-f]{40}\.[0-9a-f]{32}")

Tables = Callable[[], Iterable[pa.Table]]

_DIGESTS: dict[Path, FileDigests] = {}


class TokenRequest(NamedTuple):
    """What a token file depends on, beside the rows. most: the tokens that a conversation is
    shortened to by leaving out its oldest turns; None where it is not."""

    tokenizer: Any
    template: AnyTemplate
    most: int | None = None


def token_file(request: TokenRequest, tables: Tables, digest: str) -> TokenFile:
    """The file of those rows, whose texts have that digest; made where there is none that is
    whole. Where none can be written, the tokens are kept in memory."""
    path = tokens_folder() / f"{_key(request, digest)}.arrow"
    file = _open(path)
    if file is not None:
        return file
    try:
        _write_whole(path, request, tables())
    except OSError as error:
        LOG.warning("tokens are kept in memory: %s", as_disk_error(error, path) or error)
    return _open(path) or _in_memory(request, tables())


def tokens_folder() -> Path:
    """Where token files lie; all of them can be made anew."""
    return home() / "cache" / "tokens"


def check_token_file(path: Path, deep: bool = False) -> None:
    """ArtifactError unless the file's content is what was written; a large file that has not
    changed since it was last read is not read again, unless `deep`."""
    try:
        with path.open("rb") as file:
            file.seek(-min(TRAILER_BYTES, path.stat().st_size), os.SEEK_END)
            trailer = file.read()
        digest = _content_digest(path) if deep else _digests().sha256(path)
    except OSError as error:
        raise ArtifactError(f"{path}: tokens cannot be read: {error}") from None
    if trailer != MAGIC + bytes.fromhex(digest):
        raise ArtifactError(f"{path}: tokens are damaged; the next run writes them anew.")


def _content_digest(path: Path) -> str:
    """Hex SHA-256 of a token file without its trailer."""
    sha256, left = hashlib.sha256(), path.stat().st_size - TRAILER_BYTES
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            sha256.update(block)
            left -= len(block)
    return sha256.hexdigest()


def _digests() -> FileDigests:
    folder = home() / "cache" / "digests"
    return _DIGESTS.setdefault(folder, FileDigests(folder, _content_digest))


def _open(path: Path) -> TokenFile | None:
    """The file, which then counts as used; None where there is none that is whole."""
    if not path.exists():
        return None
    try:
        check_token_file(path)
        with pa.memory_map(str(path)) as mapped:
            file = TokenFile(mapped.read_buffer(path.stat().st_size - TRAILER_BYTES))
    except (ArtifactError, OSError, pa.ArrowException) as error:
        LOG.warning("%s", error)
        with suppress(OSError):
            path.unlink()
        return None
    _mark_used(path)
    return file


def _mark_used(path: Path) -> None:
    """At most once a day: a file whose times change is read again to be checked."""
    with suppress(OSError):  # another user's, or on a disk that cannot be written to
        if time.time() - path.stat().st_mtime > MARKED_EVERY_S:
            os.utime(path)


def _write_whole(path: Path, request: TokenRequest, tables: Iterable[pa.Table]) -> None:
    """Write the file and, as its last bytes, the digest of all before; it appears when it is
    whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unused(path.parent)
    partial = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        with partial.open("ab") as whole:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(whole, fcntl.LOCK_EX)
            with pa.OSFile(str(partial), "wb") as file:
                _write(file, request, tables)
            whole.write(MAGIC + bytes.fromhex(file_digest(partial)))
            whole.flush()
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _in_memory(request: TokenRequest, tables: Iterable[pa.Table]) -> TokenFile:
    sink = pa.BufferOutputStream()
    _write(sink, request, tables)
    return TokenFile(sink.getvalue())


def _remove_unused(folder: Path) -> None:
    """Those that a killed process left unfinished go too, whatever their age: whoever still writes
    one holds its lock. Whoever still reads one keeps what is mapped."""
    for file in folder.iterdir():
        with suppress(OSError):  # another process was faster, or it is not a file of ours
            if _UNFINISHED.fullmatch(file.name):
                with file.open("rb") as unfinished:
                    fcntl.flock(unfinished, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()
            elif time.time() - file.stat().st_mtime > UNUSED_S:
                file.unlink()


def digest_of(tables: Iterable[pa.Table]) -> str:
    """What the texts of those rows are known by, however they are cut into tables."""
    texts, turns, row = hashlib.sha256(), hashlib.sha256(), 0
    has_turns = False
    for table in tables:
        texts.update(text_digests(table, TEXTS))
        for place, of_row in _turns(table):
            has_turns = True
            turns.update(json.dumps([row + place, of_row]).encode())
        row += table.num_rows
    if has_turns:
        texts.update(turns.digest())
    return texts.hexdigest()


def _turns(table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place, system and history) of the rows that have any."""
    names = [name for name in TURNS if name in table.column_names]
    present = [pc.is_valid(table[name]).to_numpy() for name in names]
    places = np.flatnonzero(np.logical_or.reduce(present)) if present else np.zeros(0, np.int64)
    if len(places):
        rows = table.select(names).take(pa.array(places)).to_pylist()
        yield from zip(places.tolist(), rows, strict=True)


def conversations(batch: pa.RecordBatch | pa.Table) -> list[Conversation]:
    """The rows as conversations; a file from before system and history lacks these columns."""
    names = batch.schema.names
    columns = [batch[name].to_pylist() for name in TEXTS]
    systems, histories = (
        batch[name].to_pylist() if name in names else [None] * batch.num_rows for name in TURNS
    )
    return [
        Conversation(instruction, input_text, reply, system, history_of(history))
        for instruction, input_text, reply, system, history in zip(
            *columns, systems, histories, strict=True
        )
    ]


def _write(file: pa.NativeFile, request: TokenRequest, tables: Iterable[pa.Table]) -> None:
    # A tokenizer's first call sets it up; after it, several threads may use it.
    renderer = renderer_of(request.tokenizer, request.template)
    renderer.examples([Conversation("a", reply="a")])

    def encode(batch: pa.RecordBatch) -> pa.RecordBatch:
        return rendered_batch(renderer, conversations(batch), request.most)

    with pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in in_order(encode, _pieces(tables)):
            writer.write_batch(batch)


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.to_batches(max_chunksize=ROWS_AT_ONCE)


def _key(request: TokenRequest, digest: str) -> str:
    identity = renderer_of(request.tokenizer, request.template).identity
    parts = [VERSION, _tokenizer_digest(request.tokenizer), identity, digest]
    parts += [] if request.most is None else [request.most]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _tokenizer_digest(tokenizer: Any) -> str:
    """Of all that decides its ids; padding and truncation do not."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one in Python
        whole = {"says": repr(tokenizer), "vocabulary": tokenizer.get_vocab()}
    else:
        whole = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
