"""Liger's kernels (the extra `gpu`) against transformers' own code: values and gradients by
Triton's interpreter, costs on the CUDA device that computes nothing. `make test-liger` installs
what is needed."""

import importlib.util

import pytest

from tests.gpu import fake_device
from tests.support.printed import ROOT, printed_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("liger_kernel") is None,
        reason="Liger is not installed (make test-liger installs it)",
    ),
]
LAYERS = 2


@pytest.fixture(scope="module")
def compared():
    return printed_json("tests.kernels.interpreted_liger", TRITON_INTERPRET="1")


# Qwen 3 has a norm for queries and one for keys, too.
@pytest.mark.parametrize(
    ("model", "norms"), [("LLaMA", 2 * LAYERS + 1), ("Qwen 3", 4 * LAYERS + 1)]
)
def test_losses_and_gradients_are_those_of_transformers(compared, model, norms):
    result = compared[model]
    assert result["ran"] == ["liger"]
    assert result["calls"] == {"_norm": norms, "_gated": LAYERS, "_rotated": LAYERS}
    assert result["loss"] < 1e-6 and result["gradients"] < 1e-5
    assert result["is_restored"]


def test_norms_and_units_of_another_kind_stay_as_they_are(compared):
    """Gemma 2's norm adds 1 to its weight, and its unit has another activation."""
    result = compared["Gemma 2"]
    assert result["calls"] == {"_norm": 0, "_gated": 0, "_rotated": 0} and result["ran"] == []
    assert result["is_restored"]


@pytest.mark.skipif(fake_device.compiler() is None, reason=fake_device.NO_COMPILER)
def test_the_page_has_the_costs_of_a_step_with_them():
    """Where one changed on purpose, write the new table into docs/gpu.md: it is in the message."""
    outcome = printed_json("tests.gpu.liger_costs")
    assert {"rms_norm_backward", "swiglu_backward", "rope"} <= {*outcome["operations"]}
    for name in ("costs", "predictions"):
        page = (ROOT / "docs" / "gpu.md").read_text("utf-8")
        assert outcome[name] in page, f"docs/gpu.md needs this table:\n{outcome[name]}"
