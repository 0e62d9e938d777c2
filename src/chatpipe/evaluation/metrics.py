"""The measures, by name; each turns the held-out rows' nats into one value with an interval."""

from __future__ import annotations

from chatpipe.evaluation.perplexity import Metric, paper_perplexity, perplexity

METRICS: dict[str, Metric] = {
    "perplexity": Metric(perplexity, "response"),
    "perplexity_paper": Metric(paper_perplexity, "all"),
}
