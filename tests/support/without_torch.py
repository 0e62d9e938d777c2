"""A pytest plugin for an environment without torch: what needs torch is skipped."""

from collections.abc import Generator
from typing import Any

import pytest

NEED_TORCH = ("accelerate", "bitsandbytes", "peft", "torch")
MISSING = tuple(f"No module named '{name}'" for name in NEED_TORCH)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Skip a test file whose imports need torch."""
    report = yield
    if report.failed and any(text in str(report.longrepr) for text in MISSING):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 1, "needs torch")
    return report


def _skip_where_it_needs_torch(item: pytest.Item) -> Generator[None, Any, Any]:
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if error.name in NEED_TORCH:
            pytest.skip("needs torch")
        raise


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(_skip_where_it_needs_torch)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(_skip_where_it_needs_torch)
