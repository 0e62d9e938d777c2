"""What all parts of the report's data share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

JsonScalar = str | int | float | bool | None
Metric = Literal["perplexity", "perplexity_paper"]
NOT_KNOWN = "not known"  # a setting of an adapter that was trained elsewhere
FEW_ROWS = 30  # with fewer, a bootstrap interval over rows is too narrow to be relied on


class Contract(BaseModel):
    """What every part shares: frozen, no unknown fields, NaN and infinity survive JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
