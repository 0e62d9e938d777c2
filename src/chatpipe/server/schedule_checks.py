"""Check cron lines and time zones, for which Prefect only has pydantic's messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import available_timezones


def cron_fault(cron: str) -> str | None:
    """Return what is wrong with the cron line, or None."""
    from prefect._vendor.croniter.croniter import CroniterError, croniter

    parser: Any = croniter  # it has no types
    fields = cron.split()
    # croniter also reads "random" and "hashed" fields, which Prefect refuses.
    if not parser.is_valid(cron) or any(field.casefold() in ("r", "h") for field in fields):
        return (
            f"{cron!r} is not a cron line; write minute, hour, day of the month, month and day of "
            "the week, like 0 3 * * *"
        )
    try:
        parser(cron, datetime.now(UTC)).get_next()
    except CroniterError:
        return f"{cron!r} names a day that does not exist"
    return None


def time_zone_fault(name: str) -> str | None:
    """Return what is wrong with the name of a time zone, or None."""
    if name in available_timezones():
        return None
    return f"{name!r} is not a time zone; write an IANA name, like Europe/Berlin or UTC"
