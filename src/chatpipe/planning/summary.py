"""A plan in words: what its training would cost."""

from __future__ import annotations

from chatpipe.planning.result import Plan
from chatpipe.utils.quantities import in_bytes, in_count, in_time

NOT_KNOWN = "not known"


def summary(plan: Plan) -> str:
    """Return the plan as one line for a log."""
    if plan.elsewhere:
        return f"{plan.variant}: its adapter was trained elsewhere, nothing to train"
    if plan.trained:
        return f"{plan.variant}: its adapter is in the store, nothing to train"
    return f"{plan.variant}: " + ", ".join(f"{name} {value}" for name, value in cost_rows(plan))


def cost_rows(plan: Plan) -> list[tuple[str, str]]:
    """Return (name, value) pairs of what is known of the training's cost."""
    if plan.elsewhere:
        return [("device", plan.device.name), ("disk", _disk(plan))]
    rows = [("rows trained", in_count(trained_rows(plan), plan.data.exact))]
    at_most = "" if plan.tokens else "at most "
    if plan.duration:
        rows.append(("tokens", f"{at_most}{plan.duration.tokens:,}"))
    rows.append(("optimizer steps", in_count(plan.optimizer_steps, plan.data.exact)))
    rows.append(("device", plan.device.name))
    if plan.duration:
        rows.append(("time of training", f"{at_most}{in_time(plan.duration.seconds)}"))
    if plan.memory:
        rows.append(("memory", f"{at_most}{in_bytes(plan.memory.total)}"))
    rows.append(("disk", _disk(plan)))
    if plan.download_bytes != 0:
        download = plan.download_bytes
        rows.append(("download", NOT_KNOWN if download is None else in_bytes(download)))
    return rows


def trained_rows(plan: Plan) -> int:
    """Return how many rows are trained on: without those that are too long or that the template
    cannot write, where the base's tokenizer is here to know them."""
    return plan.tokens.rows if plan.tokens else plan.data.train_rows


def _disk(plan: Plan) -> str:
    """Return the bytes; a lower bound where the size of a download is not known."""
    needed = sum(need.bytes for need in plan.disk)
    if plan.download_bytes is not None:
        return in_bytes(needed)
    return f"at least {in_bytes(needed)}" if needed else NOT_KNOWN
