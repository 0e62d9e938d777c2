"""One token for every row of a batch by models of the Llama family, on CPUs.

A step of a small model is mostly what stands between its products: transformers' modules, casts and
copies, of which a layer has some sixty. Here a layer is some twenty operations in the same order,
with the same roundings: layers that read one input are one product, keys and values are not copied
for every query head, and the adapters of all rows are stacked. The plain path is the model's own
forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import scaled_dot_product_attention

from chatpipe.kernels.adapter_stacks import Masks, StackCache
from chatpipe.kernels.decoding_products import Arrangements, JoinedLayers
from chatpipe.kernels.lora_inference import LORA_INFERENCE, adapted_layers, is_plain
from chatpipe.kernels.switch import is_enabled, ran

DECODING = "decoding"
# transformers' classes whose layers are the ones that `_Layer` computes.
FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def decoder_of(model: Any) -> Decoder | None:
    """Return what computes the model's steps; None where its own forward pass has to."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    if not (is_enabled(DECODING) and _is_known(plain)):
        return None
    decoder = Decoder(plain)
    others = {*map(id, adapted_layers(model))} - {*map(id, decoder.linear_layers())}
    if others or not all(_is_computable(layer) for layer in decoder.linear_layers()):
        return None
    return decoder


def _is_known(plain: Any) -> bool:
    kind = type(plain)
    if kind.__name__ not in FAMILY or not kind.__module__.startswith("transformers.models."):
        return False
    config, embedding = plain.config, plain.model.embed_tokens
    slides = getattr(config, "sliding_window", None) is not None
    others = {*(getattr(config, "layer_types", None) or ())} - {"full_attention"}
    is_plain_embedding = type(embedding) is torch.nn.Embedding
    on_cpu = embedding.weight.device.type == "cpu"
    return on_cpu and is_plain_embedding and not (slides or others or _is_changed(plain))


def _is_changed(model: Any) -> bool:
    """Whether any module has hooks, or a forward pass that is not its class's."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in model.modules()
    )


def _is_computable(layer: Any) -> bool:
    is_adapted = hasattr(layer, "base_layer")
    if is_adapted and not (is_plain(layer) and is_enabled(LORA_INFERENCE)):
        return False
    return type(layer.base_layer if is_adapted else layer) is torch.nn.Linear


class Decoder:
    """The steps of one model, whose weights and adapters stay as they are."""

    def __init__(self, plain: Any) -> None:
        model = plain.model
        self._embedding, self._norm = model.embed_tokens, model.norm
        self._rotary = model.rotary_emb
        self._layers = [_Layer(layer) for layer in model.layers]
        self._head = JoinedLayers([plain.lm_head])
        self._stacks = StackCache()
        self._arrangements = Arrangements(self._joined())

    def linear_layers(self) -> list[Any]:
        """Return all layers that may have adapters."""
        return [layer for joined in self._joined() for layer in joined.layers]

    def use(self, adapters: Sequence[str | None], arranged_for: int | None = None) -> None:
        """From now on row n passes through adapter n, or through the base alone. arranged_for: how
        many rows the weights are arranged for, where that is not as many as there are now."""
        ran(DECODING)
        if any(adapters):
            ran(LORA_INFERENCE)
        rows = arranged_for or len(adapters)
        self._arrangements.arrange(rows)
        stacks, masks = self._stacks.stacks_for(adapters), Masks(adapters)
        for joined in self._joined():
            joined.use(stacks, masks, rows)

    def logits(
        self, tokens: torch.Tensor, lengths: torch.Tensor, cache: Any, seen: torch.Tensor | None
    ) -> torch.Tensor:
        """Return (N, vocabulary) after one more token of every row.

        tokens, lengths: (N,), each row's next token and how many it has before; seen: (N, W + 1),
        the columns of the cache that each row sees, its own token the last; None for all.
        """
        hidden = self._embedding(tokens)
        positions = self._rotary(hidden[:, None], position_ids=lengths[:, None])
        mask = None
        if seen is not None:
            mask = torch.zeros(seen.shape, dtype=hidden.dtype).masked_fill_(~seen, -torch.inf)
            mask = mask[:, None, None]
        for number, layer in enumerate(self._layers):
            hidden = layer.output(hidden, positions, partial(cache.update, layer_idx=number), mask)
        return self._head.output(self._norm.forward(hidden))

    def _joined(self) -> list[JoinedLayers]:
        return [joined for layer in self._layers for joined in layer.joined] + [self._head]


class _Layer:
    """A decoder layer of the family."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._norms = layer.input_layernorm, layer.post_attention_layernorm
        self._query_norm = getattr(attention, "q_norm", None)
        self._key_norm = getattr(attention, "k_norm", None)
        self._activation = mlp.act_fn
        self._size, self._scale = attention.head_dim, attention.scaling
        config = attention.config
        self._heads, self._key_heads = config.num_attention_heads, config.num_key_value_heads
        self._inputs = JoinedLayers([attention.q_proj, attention.k_proj, attention.v_proj])
        self._attended = JoinedLayers([attention.o_proj])
        self._gates = JoinedLayers([mlp.gate_proj, mlp.up_proj])
        self._down = JoinedLayers([mlp.down_proj])
        self.joined = self._inputs, self._attended, self._gates, self._down

    def output(
        self,
        hidden: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor],
        append: Any,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """(N, hidden) → (N, hidden). append: adds keys and values to the cache, and returns all."""
        before_attention, before_mlp = self._norms
        states = self._inputs.output(before_attention.forward(hidden))
        attended = self._attention(states, positions, append, mask)
        hidden = self._attended.output(attended, added=hidden)
        gates = self._gates.output(before_mlp.forward(hidden))
        gate, up = gates.chunk(2, dim=-1)
        return self._down.output(self._activation(gate) * up, added=hidden)

    def _attention(
        self,
        states: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor],
        append: Any,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """(N, (query heads + 2 key heads) · size) → (N, query heads · size)."""
        rows = len(states)
        heads = states.view(rows, -1, self._size)
        queries, values = self._heads, self._heads + self._key_heads
        turned = heads[:, :values]
        if self._query_norm is not None and self._key_norm is not None:
            parts = self._query_norm(heads[:, :queries]), self._key_norm(turned[:, queries:])
            turned = torch.cat(parts, dim=1)
        turned = _rotated(turned, *positions)
        keys, read = append(turned[:, queries:, None], heads[:, values:, None])
        output = scaled_dot_product_attention(
            turned[:, :queries, None],
            keys,
            read,
            attn_mask=mask,
            scale=self._scale,
            enable_gqa=queries != self._key_heads,
        )
        return output.reshape(rows, -1)


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """heads (N, heads, size); cos, sin (N, 1, size)."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
