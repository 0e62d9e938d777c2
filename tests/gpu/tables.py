"""Prints the tables of `docs/gpu.md` and `docs/memory.md` that are counted on fake tensors; those
with Liger where it is installed (`make test-liger` installs it beside .venv).

    python -m tests.gpu.tables
"""

from __future__ import annotations

from tests.gpu import fake_device

fake_device.preload()

from tests.gpu.fake_torch import fake_gpu, patch_libraries

patch_libraries()

from chatpipe.kernels import liger
from tests.gpu.cost_tables import tables
from tests.support.printed import printed_json


def main() -> None:
    has_liger = liger.is_installed()
    liger.is_installed = lambda: False
    with fake_gpu((8, 9)):
        printed = tables()
    if has_liger:
        of_liger = printed_json("tests.gpu.liger_costs")
        printed |= {f"{name}, Liger": of_liger[name] for name in ("costs", "predictions")}
    for name, content in printed.items():
        print(f"{name}\n\n{content}\n")


if __name__ == "__main__":
    main()
