"""Whether a model computes packed rows as it does each row alone.

A model that mixes tokens in other ways than by attention (recurrent layers, convolutions), that
adds something to its attention's scores, or that counts positions in a way of its own would see
the other rows, and its figures would be wrong without an error. What its configuration says is
looked at first, and then the model itself computes two short rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import send_to_device

from chatpipe.errors import ModelError
from chatpipe.kernels.dequantize import is_quantized
from chatpipe.packing.packing import pack, packed_attention, packed_logits, packed_nats
from chatpipe.packing.padding import padded_logits, unwrapped
from chatpipe.runtime.oom import is_out_of_memory
from chatpipe.tokenization.encoder import TokenizedRow

LAYERS = {"full_attention", "sliding_attention"}
LENGTH = 8  # tokens of a row that is tried
EXACT = 1e-3  # of the largest number: for what is computed by the same operations in both cases
# Nats a token that another attention, in the model's type, may be apart.
APART = {torch.float32: 0.01, torch.float64: 0.01}
APART_IN_HALF = 0.5

_FAULTS: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()
_SEEN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def packing_fault(model: Any) -> str | None:
    """Why rows cannot be packed for that model; None where they can. Tried once for each base."""
    base = unwrapped(model)
    if base not in _FAULTS:
        _FAULTS[base] = configuration_fault(base) or _fault_when_tried(model)
    return _FAULTS[base]


def sees_padding(model: Any) -> bool:
    """Whether a row's logits depend on what stands after it in a padded batch: not of a causal
    model, if its class does not make something of its own of the token ids. Tried once for each
    base."""
    base = unwrapped(model)
    if base not in _SEEN:
        with torch.no_grad(), _repeatable(model):
            _SEEN[base] = not _close(*(_logits_before(model, place) for place in (1, 2)))
    return _SEEN[base]


def _logits_before(model: Any, place: int) -> torch.Tensor:
    """(LENGTH, vocabulary) of one row above another that is longer, padded with a token of the
    three rows' one at that place, or 0."""
    device = next(model.parameters()).device
    row, other = (torch.tensor(_ids(model, number), device=device) for number in (0, place))
    padding = other[:3] if place == 1 else torch.zeros_like(other[:3])
    batch = torch.stack([torch.cat([row, padding]), torch.cat([other, other[:3]])])
    mask = torch.ones_like(batch)
    mask[0, LENGTH:] = 0
    torch.manual_seed(0)
    return padded_logits(model, batch, mask)[0, :LENGTH]


def packing_fault_without_weights(model: Any) -> str | None:
    """As packing_fault, as far as a model on the meta device tells."""
    fault = configuration_fault(model)
    if fault is not None:
        return fault
    packed = send_to_device(pack([_row([0, 1, 0]), _row([0, 1, 1])]), torch.device("meta"))
    try:
        with torch.no_grad(), packed_attention(model):
            packed_logits(model, packed)
    except ModelError as error:
        return str(error)
    except Exception:  # a model that looks at values, which are not there
        return None
    return None


def configuration_fault(model: Any) -> str | None:
    """What of the model's configuration and class rules packing out."""
    config = model.config.get_text_config()
    others = sorted({*(getattr(config, "layer_types", None) or ())} - LAYERS)
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if others:
        return f"it has layers of {', '.join(others)}"
    return None


def _fault_when_tried(model: Any) -> str | None:
    try:
        with torch.no_grad(), _repeatable(model):
            return _difference(model)
    except ModelError as error:
        return str(error)
    except Exception as error:  # whatever a model makes of arguments that it does not know
        if is_out_of_memory(error):
            raise
        message = str(error).partition("\n")[0][:200]
        return f"it does not compute packed rows ({type(error).__name__}: {message})"


def _difference(model: Any) -> str | None:
    """What differs, of two rows, between a pack and each row alone."""
    first, second, other = (_ids(model, place) for place in range(3))
    device = next(model.parameters()).device
    alone = torch.tensor([second], device=device)
    torch.manual_seed(0)
    logits = padded_logits(model, alone, None)
    positions = torch.arange(LENGTH, device=device)[None]
    torch.manual_seed(0)
    placed = model(input_ids=alone, position_ids=positions).logits
    if not _close(logits, placed):
        return "it counts positions in a way of its own"
    nats = _nats_of_second(model, first, second)
    if not _close(nats, _nats_of_second(model, other, second)):
        return "a row's likelihood depends on the others of its pack"
    expected = -logits[0, :-1].float().log_softmax(-1).gather(1, alone[0, 1:, None])[:, 0]
    apart = float((nats - expected).abs().mean())
    if not model.training and apart > APART.get(logits.dtype, APART_IN_HALF):
        return f"packed rows are {apart:.2g} nats a token from those alone"
    return None


def _nats_of_second(model: Any, first: list[int], second: list[int]) -> torch.Tensor:
    packed = pack([_row(first), _row(second)])
    torch.manual_seed(0)
    with packed_attention(model):
        nats = packed_nats(model, send_to_device(packed, next(model.parameters()).device))
    return nats[-packed["counts"][1] :]


def _close(some: torch.Tensor, others: torch.Tensor) -> bool:
    if not bool(torch.isfinite(some).all()):
        return True  # an overflow is told of where figures are made
    difference = (some.float() - others.float()).abs().max()
    return bool(difference <= EXACT * some.float().abs().max().clamp(min=1))


def _row(ids: list[int]) -> TokenizedRow:
    return TokenizedRow(ids, ids, 0)


def _ids(model: Any, place: int) -> list[int]:
    """Tokens that none of the three rows has in common with another at its place, if there are so
    many that have no special meaning."""
    config = unwrapped(model).config.get_text_config()
    named = (value for name, value in vars(config).items() if name.endswith("token_id"))
    special = {value for value in named if isinstance(value, int)}
    usable = [token for token in range(min(config.vocab_size, 200)) if token not in special]
    return [usable[(place * 7 + 3 * number + 1) % len(usable)] for number in range(LENGTH)]


@contextmanager
def _repeatable(model: Any) -> Iterator[None]:
    """While this lasts the model is in inference mode, and afterwards it and torch's generators are
    as before. With 4-bit layers on a CPU it is in training mode (the noise is that of a seed):
    in inference mode they are laid out anew, for products that have no gradient."""
    devices = [p.device for p in model.parameters()][:1]
    was_training = model.training
    model.train(devices[0].type == "cpu" and is_quantized(model))
    with torch.random.fork_rng([d for d in devices if d.type == "cuda"]):
        try:
            yield
        finally:
            model.train(was_training)
