"""Mutated row files: each is read with every row accounted for, or refused in one sentence.

    python -m tests.support.fuzz_readers --files 10000 --seed 0

Files are seeded. Readers run in a process of their own, so that one that dies is found, too.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatpipe.data import reading
from chatpipe.data.csv_rows import CSVFile
from chatpipe.errors import ChatpipeError
from chatpipe.planning.row_checks import checked_rows
from tests.support.rows import alpaca_rows, dialogue_rows

TEXTS = ("instruction", "input", "output")
TOKENS = (
    *(b"null", b"\n", b"\r", b"\r\n", b'"', b"'", b",", b";", b"\t", b"{", b"}", b"[", b"]", b":"),
    *(b"\\", b"\\u", b"\\ud800", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"NaN", b"1e999"),
    *(b"true", b"[" * 2_000, b"9" * 5_000, b"\xe2\x80\x8b", b'""', b'"\n"', b"\x1f\x8b", b"PAR1"),
    *(b'"output":"again",', b'{"instruction":"q","output":"a"}', b"instruction,input,output\n"),
)


def seeds() -> dict[str, tuple[str, str, bytes]]:
    """(suffix, format, content) of whole files, by name."""
    rows = [*alpaca_rows(12), {"instruction": "Zwei\nZeilen é", "input": "a, b", "output": '"x"'}]
    turns = [
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["output"], "weight": 1},
            ]
        }
        for row in rows
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    talks = dialogue_rows(10)
    table = io.StringIO()
    writer = csv.DictWriter(table, TEXTS)
    writer.writeheader()
    writer.writerows(rows)
    text = table.getvalue()
    return {
        "lines": ("jsonl", "alpaca", lines),
        "list": ("json", "alpaca", json.dumps(rows, ensure_ascii=False).encode()),
        "pretty list": ("json", "alpaca", json.dumps(rows, indent=1).encode()),
        "csv": ("csv", "alpaca", text.encode()),
        "semicolons": ("csv", "alpaca", text.replace(",", ";").encode()),
        "tabs": ("tsv", "alpaca", text.replace(",", "\t").encode()),
        "turns": ("jsonl", "messages", "".join(json.dumps(t) + "\n" for t in turns).encode()),
        "dialogues": ("jsonl", "dialogues", "".join(json.dumps(t) + "\n" for t in talks).encode()),
        "packed": ("jsonl.gz", "alpaca", gzip.compress(lines, mtime=0)),
        "utf-16": ("jsonl", "alpaca", lines.decode().encode("utf-16")),
        "parquet": ("parquet", "alpaca", _parquet(rows)),
        "parquet turns": ("parquet", "messages", _parquet(turns)),
    }


def _parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="none")
    return buffer.getvalue()


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four changes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data) + 1)
        end = min(len(data), place + draw.choice([1, 2, 8, 64, 512]))
        change = draw.randrange(7)
        if change == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif change == 1:
            data[place:place] = draw.choice(TOKENS)
        elif change == 2:
            data[place:end] = draw.choice(TOKENS)
        elif change == 3:
            del data[place:end]
        elif change == 4:
            data[place:place] = data[place:end]
        elif change == 5 and draw.random() < 0.3:
            del data[place:]
        elif change == 6:
            lines = data.split(b"\n")
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(TOKENS))
            data = bytearray(b"\n".join(lines))
    return bytes(data)


def file_of(number: int, seed: int) -> tuple[str, str, str, bytes]:
    """(which seed file, suffix, format, content) of that mutated file."""
    draw = random.Random(f"{seed}-{number}")
    name, (suffix, row_format, content) = draw.choice(sorted(seeds().items()))
    return name, suffix, row_format, mutated(content, draw)


def problem_of(path: Path, row_format: str, content: bytes) -> str | None:
    """What is wrong with how the file is read; None where nothing is."""
    outcomes = []
    for block in (1 << 21, 700):
        reading.BLOCK_BYTES, reading.SMALL_BYTES = block, block // 7
        try:
            checked = checked_rows(path, row_format, {})
        except ChatpipeError as error:
            sentence = str(error)
            if "\n" in sentence or str(path) not in sentence or len(sentence) > 3_000:
                return f"no sentence about the file: {sentence!r}"
            outcomes.append("refused")
        else:
            outcomes.append((checked.rows, checked.bad, sorted(checked.flagged.items())))
    if outcomes[0] != outcomes[1]:
        return f"depends on the parts: {outcomes}"
    if outcomes[0] == "refused":
        return None
    expected = _counted(path, content)
    if expected is not None and expected != outcomes[0][0]:
        return f"{expected} rows are there, {outcomes[0][0]} were read"
    return None


def _counted(path: Path, content: bytes) -> int | None:
    """How many rows there are, by another way of counting; None where that is not clear."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"PAR1")) or b"\x00" in content[:4]:
        return pq.read_metadata(path).num_rows if content.startswith(b"PAR1") else None
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    content = content.removeprefix(b"\xef\xbb\xbf")
    if path.suffix in (".csv", ".tsv"):
        delimiter = CSVFile(path, TEXTS).delimiter
        text = io.StringIO(content.decode(), newline="")
        return sum(1 for record in csv.reader(text, delimiter=delimiter) if record) - 1
    if content.lstrip().startswith(b"["):
        try:
            return len(json.loads(content))
        except (ValueError, RecursionError):
            pass
    return sum(1 for line in content.split(b"\n") if line.strip())


def work(first: int, last: int, seed: int) -> None:
    """Read those files, and print a line for each: its number, then what is wrong, if anything."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last):
            _, suffix, row_format, content = file_of(number, seed)
            path = Path(folder) / f"rows.{suffix}"
            path.write_bytes(content)
            print(number, flush=True)
            try:
                problem = problem_of(path, row_format, content)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                print(number, json.dumps(problem), flush=True)


def fuzz(files: int, seed: int, report: Callable[[str], None] = print) -> Counter[str]:
    """How many files there are, and how many with a problem, by its beginning."""
    counts, first = Counter(files=files), 0
    while first < files:
        command = [sys.executable, "-m", "tests.support.fuzz_readers", "--seed", str(seed)]
        done = subprocess.run(
            [*command, "--from", str(first), "--files", str(files)], capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        problems = [line for line in lines if " " in line]
        if done.returncode:
            last = int(lines[-1].partition(" ")[0]) if lines else first
            problems.append(f"{last} the reader died ({done.returncode}): {done.stderr[-300:]}")
        for problem in problems:
            number, _, what = problem.partition(" ")
            report(f"file {number} ({file_of(int(number), seed)[0]}): {what}")
            counts[what.strip('"').partition(":")[0]] += 1
        first = last + 1 if done.returncode else files
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="first", type=int, help="read them in this process")
    options = parser.parse_args()
    if options.first is not None:
        work(options.first, options.files, options.seed)
        return
    counts = fuzz(options.files, options.seed)
    print(json.dumps(counts))
    sys.exit(len(counts) > 1)


if __name__ == "__main__":
    main()
