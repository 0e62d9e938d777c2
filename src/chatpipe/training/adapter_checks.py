"""An adapter is checked after it is written: finite, not zero, and the same when loaded again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatpipe.errors import TrainingError
from chatpipe.tokenization.encoder import TokenizedRow

if TYPE_CHECKING:
    pass


def check_adapter(model: Any, row: TokenizedRow) -> None:
    """TrainingError unless the adapter has weights, is finite, not zero and changes the logits
    of `row`. Leaves the model in inference mode.

    The logits without the adapter are computed here and not before training: on a CPU,
    bitsandbytes repacks a 4-bit weight at its first inference-mode forward into a layout whose
    product has no gradient, and training would go on without saying so.
    """
    import torch

    weights = {name: p for name, p in model.named_parameters() if "lora_" in name}
    if not weights:
        raise TrainingError("the adapter is empty: lora.target_modules matched no layer.")
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise TrainingError(f"the adapter is not finite ({name}); lower the learning rate.")
    if not any(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name):
        raise TrainingError(
            "the adapter is all zero: no step changed it; check training.learning_rate and the "
            "values of the base's weights."
        )
    model.eval()
    ids = torch.tensor([row.input_ids[:64]], device=next(model.parameters()).device)
    with torch.no_grad():
        with model.disable_adapter():
            before = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    if torch.equal(before, after):
        raise TrainingError("the adapter changes no logit of the base model; train for longer.")
