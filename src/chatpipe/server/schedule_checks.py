"""What is wrong with a cron line or a time zone, in words of ours: Prefect passes pydantic's on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import available_timezones


def cron_fault(cron: str) -> str | None:
    """What is wrong with the cron line, or None."""
    from prefect._vendor.croniter.croniter import CroniterError, croniter

    read: Any = croniter  # it has no types
    fields = cron.split()
    # croniter also reads "random" and "hashed" fields, which Prefect refuses.
    if not read.is_valid(cron) or any(field.casefold() in ("r", "h") for field in fields):
        return (
            f"{cron!r} is no cron line; write minute, hour, day of the month, month and day of the "
            "week, like 0 3 * * *"
        )
    try:
        read(cron, datetime.now(UTC)).get_next()
    except CroniterError:
        return f"{cron!r} names a day that never comes"
    return None


def time_zone_fault(name: str) -> str | None:
    """What is wrong with the name of a time zone, or None."""
    if name in available_timezones():
        return None
    return f"{name!r} is no time zone; write one of the IANA's names, like Europe/Berlin or UTC"
