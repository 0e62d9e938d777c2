"""Names of runs as people write them: `smol-merge/lr=0.0003/seed=1`."""

from __future__ import annotations

import re
from collections.abc import Callable

from chatpipe.config.run_names import short_cell_name
from chatpipe.report.schema import Report

_RUN_NAME = re.compile(r"[\w.\\-]+(?:\+[\w.\\]+=[\w.,\\-]*\w)+", re.ASCII)


def with_short_names(page: str, report: Report, escape: Callable[[str], str] = str) -> str:
    """Return the page with the short names of the report's models and configurations.

    escape: how the page writes a name. No other text is changed, such as an answer with `a+b=c`.
    """
    names = {model.name for model in report.models}
    names |= {configuration.name for configuration in report.configurations}
    names |= {cell.name for cell in report.missing}
    names |= {curve.configuration for curve in report.curves}
    short_names = {escape(name): escape(short_cell_name(name)) for name in names}
    return _RUN_NAME.sub(lambda match: short_names.get(match[0], match[0]), page)
