from .metrics import METRICS as METRICS
from .perplexity import Interval as Interval
from .perplexity import Metric as Metric
from .perplexity import bits_per_byte as bits_per_byte
from .perplexity import difference as difference
from .perplexity import interval as interval
from .perplexity import paper_perplexity as paper_perplexity
from .score import Score as Score
