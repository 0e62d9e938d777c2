"""The tables of `docs/gpu.md` and `docs/memory.md` that are counted without Liger."""

from __future__ import annotations

from tests.gpu.step_costs import memory, predictions, step_costs, table
from tests.gpu.together_costs import together_costs


def tables() -> dict[str, str]:
    """By what they are; in the fake mode of this moment, without Liger."""
    costs, of_four = step_costs(), together_costs()
    return {
        "costs": table(costs),
        "predictions": predictions(costs),
        "memory": memory(costs),
        "costs of four": table(of_four),
        "predictions of four": predictions(of_four),
    }
