"""A plan in words: what training would cost, in the order in which people ask."""

from __future__ import annotations

from chatpipe.planning import Plan

NOT_KNOWN = "not known"


def summary(plan: Plan) -> str:
    """One line for a log."""
    if plan.trained:
        return f"{plan.variant}: its adapter is in the store, nothing to train"
    return f"{plan.variant}: " + ", ".join(f"{name} {value}" for name, value in cost_rows(plan))


def cost_rows(plan: Plan) -> list[tuple[str, str]]:
    """(what, how much) of training, as far as it is known."""
    trained = plan.tokens.rows if plan.tokens else plan.data.train_rows
    rows = [("rows trained", in_count(trained, plan.data.exact))]
    at_most = "" if plan.tokens else "at most "
    if plan.duration:
        rows.append(("tokens", f"{at_most}{plan.duration.tokens:,}"))
    rows.append(("optimizer steps", in_count(plan.optimizer_steps, plan.data.exact)))
    rows.append(("device", plan.device.name))
    if plan.duration:
        rows.append(("time", f"{at_most}{in_time(plan.duration.seconds)}"))
    if plan.memory:
        rows.append(("memory", f"{at_most}{in_bytes(plan.memory.total)}"))
    rows.append(("disk", _disk(plan)))
    if plan.download_bytes != 0:
        download = plan.download_bytes
        rows.append(("download", NOT_KNOWN if download is None else in_bytes(download)))
    return rows


def _disk(plan: Plan) -> str:
    """Where a download's size is not known, what is known is the least."""
    known = sum(need.bytes for need in plan.disk)
    if plan.download_bytes is not None:
        return in_bytes(known)
    return f"at least {in_bytes(known)}" if known else NOT_KNOWN


def in_bytes(size: float) -> str:
    """1.5 GiB, 84 MiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:,.0f} {name}"
    return f"{size:.0f} B"


def in_time(seconds: float) -> str:
    """2 min, 8 h 20 min, 3.5 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{seconds / 86400:,.1f} days"


def in_count(rows: int, exact: bool) -> str:
    """12,345, or "about 12,345" where it was not counted."""
    return f"{rows:,}" if exact else f"about {rows:,}"
