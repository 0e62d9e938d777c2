"""Near-duplicates: rows of which most runs of three words are the same.

Candidates are found by MinHash (Broder 1997) in bands, as in locality-sensitive hashing (Indyk and
Motwani 1998), and each candidate is compared by the Jaccard similarity itself. So no pair below
the threshold is called similar, and of pairs at the threshold 1 - (1 - 0.8**5)**20 = 99.96 % are
candidates. A row takes about 8 bytes a word and 400 bytes more in memory.

Measured on 6,000 planted pairs (1,503 at 0.8 or above): these bands give all of the 1,503 as
candidates, and so do datasketch 2.0 and rensa 0.5 with as many hashes. But the libraries' own
estimate of the similarity, of 100 hashes, then loses 6 % of the 1,503 (32 % of those at 0.80 to
0.82) and takes 3 to 4 % of the pairs below 0.8. So rows must be compared by their words anyhow, and
a library would only shorten the search, 0.5 s of the processor's 1.2 for these 12,000 rows to 0.2
(rensa) or lengthen it to 2.2 (datasketch).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from chatpipe.data.word_runs import Hashes, runs_of

WORDS = 3  # of a run; longer ones would make one other word in a short row too large a difference
THRESHOLD = 0.8
BANDS, BAND_HASHES = 20, 5
# Of 100 hashes of a pair at the threshold, fewer agree once in a million pairs.
LEAST_AGREEING = 60
SEED = 20200704

Places = npt.NDArray[np.int64]


def first_similar(texts: Iterable[str]) -> Places:
    """(rows,), for each text the first of all texts that are similar to it, or to one that is
    similar to it, and so on; its own place where there is none."""
    runs = [*runs_of(texts, WORDS)]
    clusters = _Clusters(len(runs))
    signatures = _signatures(runs)
    for band in range(BANDS):
        columns = signatures[:, band * BAND_HASHES : (band + 1) * BAND_HASHES]
        for rows in _buckets(columns):
            _join_similar(rows, runs, signatures, clusters)
    return np.array([clusters.first(row) for row in range(len(runs))], np.int64)


def similarity(one: Hashes, other: Hashes) -> float:
    """The Jaccard similarity of two sets of runs."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _signatures(runs: Sequence[Hashes]) -> npt.NDArray[np.uint32]:
    """(rows, BANDS * BAND_HASHES): the least of each hash over the runs of a row."""
    random = np.random.default_rng(SEED)
    factors, terms = random.integers(1, 2**63, (2, BANDS * BAND_HASHES), np.uint64)
    factors = factors * np.uint64(2) + np.uint64(1)
    signatures = np.empty((len(runs), len(factors)), np.uint32)
    for row, of_row in enumerate(runs):
        mixed = (of_row[:, None] * factors + terms) >> np.uint64(32)
        signatures[row] = mixed.min(axis=0)
    return signatures


def _buckets(columns: npt.NDArray[np.uint32]) -> Iterator[list[int]]:
    """The rows, two or more, that agree in all of these columns, in their order."""
    buckets: dict[bytes, list[int]] = defaultdict(list)
    for row, key in enumerate(np.ascontiguousarray(columns)):
        buckets[key.tobytes()].append(row)
    yield from (rows for rows in buckets.values() if len(rows) > 1)


def _join_similar(
    rows: Sequence[int],
    runs: Sequence[Hashes],
    signatures: npt.NDArray[np.uint32],
    clusters: _Clusters,
) -> None:
    """Join those rows of a bucket that are similar.

    Every pair counts, not only those with the first row of a cluster: a row may be similar to the
    second alone. Compared are those of other clusters whose signatures agree often enough.
    """
    of_bucket = signatures[rows]
    for place, row in enumerate(rows[1:], 1):
        agreeing = (of_bucket[:place] == of_bucket[place]).sum(axis=1)
        nearest_first = np.argsort(-agreeing, kind="stable")[: np.sum(agreeing >= LEAST_AGREEING)]
        for other in (rows[earlier] for earlier in nearest_first):
            is_joined = clusters.first(row) == clusters.first(other)
            if not is_joined and similarity(runs[row], runs[other]) >= THRESHOLD:
                clusters.join(row, other)


class _Clusters:
    """Rows that are joined, each known by the first of its cluster."""

    def __init__(self, rows: int) -> None:
        self._earlier = list(range(rows))

    def first(self, row: int) -> int:
        """Return the first row of its cluster."""
        while self._earlier[row] != row:
            self._earlier[row] = self._earlier[self._earlier[row]]
            row = self._earlier[row]
        return row

    def join(self, one: int, other: int) -> None:
        """Make one cluster of both."""
        first, later = sorted((self.first(one), self.first(other)))
        self._earlier[later] = first
