"""Entries of the history for tests: what is not said has a plain value."""

from datetime import UTC, datetime, timedelta

from chatpipe.reevaluation.history import Entry

START = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


def entry(value=10.0, day=0, **other):
    """A checked perplexity with an interval of one to each side."""
    plain = {
        "record": "evaluated",
        "checked_at": START + timedelta(days=day),
        "variant": "v",
        "model_digest": "m",
        "heldout": "a",
        "heldout_digest": "rows",
        "answers_digest": "answers",
        "metric": "perplexity",
        "value": value,
        "low": value - 1,
        "high": value + 1,
        "tokens": 120,
        "rows": 12,
        "seen": 0,
        "scored": "unchanged",
    }
    return Entry(**plain | other)
