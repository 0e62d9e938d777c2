"""Gradient checkpointing: layers whose activations are computed again in the backward pass."""

from __future__ import annotations

import logging
from typing import Any

from chatpipe.errors import ConfigError

LOG = logging.getLogger(__name__)


def checkpoint_layers(model: Any, every: int, is_required: bool = False) -> bool:
    """Have every `every`-th layer of a base compute its activations again; return whether it does.

    Raises:
        ConfigError: The settings require it, and the base has no such layers.
    """
    if not model.supports_gradient_checkpointing:
        if is_required:
            raise ConfigError(
                [
                    f"training.gradient_checkpointing: {type(model).__name__} has none; set it to "
                    "false."
                ]
            )
        LOG.warning("%s has no gradient checkpointing, which would spare memory", type(model))
        return False
    # Not by peft's own preparation: it holds in float32 whatever is not quantized, and checkpoints
    # nothing where no layer is.
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    return True
