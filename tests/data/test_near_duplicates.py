"""Near-duplicates: planted pairs are found, others are not, and no cluster is on both sides."""

import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from chatpipe.config.schema import Dataset, Split
from chatpipe.data.merge import Merge
from chatpipe.data.near_duplicates import WORDS, first_similar
from chatpipe.data.normalize import Normalize
from chatpipe.data.word_runs import words_of
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from tests.support.rows import write_jsonl

VOCABULARY = [f"w{number}" for number in range(2000)]


def jaccard(one, other):
    """Of all runs of words, by Python's sets."""
    runs = []
    for text in (one, other):
        words = words_of(text)
        runs.append({tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)})
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def planted(random_, pairs):
    """Texts in pairs, of which up to a sixth of the words differ."""
    for _ in range(pairs):
        words = random_.choices(VOCABULARY, k=random_.randint(40, 200))
        other = list(words)
        for place in random_.sample(range(len(words)), random_.randint(0, len(words) // 6)):
            other[place] = random_.choice(VOCABULARY)
        yield " ".join(words), " ".join(other)


def test_planted_pairs_are_found_and_others_are_not():
    pairs = [*planted(random.Random(7), 1500)]
    first = first_similar(text for pair in pairs for text in pair).reshape(-1, 2)
    found = first[:, 0] == first[:, 1]
    similar = np.array([jaccard(*pair) >= 0.8 for pair in pairs])
    assert 300 < similar.sum() < 1200
    assert found[similar].mean() >= 0.95
    assert found[~similar].mean() <= 0.01
    assert np.array_equal(first[:, 0], np.arange(0, 3000, 2))  # no pair is like another


def test_a_row_that_is_similar_to_the_second_of_a_cluster_alone_is_in_it():
    random_ = random.Random(5)
    texts, alike = [], []
    for _ in range(400):
        words = [random_.choice(VOCABULARY) for _ in range(200)]
        first, third = list(words), list(words)
        first[random_.randrange(90)] = "first"
        for place in random_.sample(range(100, 199), 7):
            third[place] = random_.choice(VOCABULARY)
        triple = [" ".join(each) for each in (first, words, third)]
        if jaccard(triple[0], triple[2]) < 0.8 <= jaccard(triple[1], triple[2]):
            texts += triple
            alike.append(jaccard(triple[0], triple[1]) >= 0.8)
    assert all(alike) and len(alike) > 100
    clusters = first_similar(texts).reshape(-1, 3)
    assert np.mean(clusters[:, 2] == clusters[:, 0]) >= 0.95


def test_short_and_empty_texts_are_alike_where_all_their_words_are():
    texts = ["Yes.", "yes", "No", "", "?!", "Yes, sir.", "Name a prime.", "name a PRIME"]
    assert first_similar(texts).tolist() == [0, 0, 2, 3, 4, 5, 6, 6]


@pytest.mark.usefixtures("chatpipe_home")
def test_a_cluster_is_never_on_both_sides_and_the_others_are_counted(tmp_path):
    random_ = random.Random(3)
    rows = []
    for number in range(60):
        words = random_.choices(VOCABULARY, k=60)
        for copy in range(random_.randint(1, 3)):
            changed = [*words]
            changed[copy] = f"copy{copy}"
            text = " ".join(changed)
            rows.append({"instruction": f"Say {number} {copy}", "output": text})
    random_.shuffle(rows)
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    dataset = Dataset(name="rows", path=str(path))
    made = store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )
    exact = store().get_or_build(Merge(examples=(made,), split=Split(heldout=0.2)))
    near = store().get_or_build(Merge(examples=(made,), split=Split(heldout=0.2), dedup="near"))

    def clusters(corpus, side):
        table = pq.read_table(corpus.path / f"{side}.parquet")
        return [text.split()[1] for text in table["instruction"].to_pylist()]

    heldout = clusters(near, "heldout")
    assert heldout == clusters(exact, "heldout")  # what models are scored on stays
    kept = clusters(near, "train")
    assert len(set(kept)) == len(kept) and not set(kept) & set(heldout)
    assert set(kept) == set(clusters(exact, "train")) - set(heldout)
    account = near.details()["account"]
    assert account["dropped"] == {"near_duplicate": len(rows) - len(kept) - len(heldout)}
    assert (
        Merge(examples=(made,), split=Split(), dedup="exact").key()
        == Merge(examples=(made,), split=Split()).key()
    )
