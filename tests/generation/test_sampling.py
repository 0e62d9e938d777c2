"""What is drawn follows the model's probabilities, and hangs on the seed and the prompt alone."""

import pytest
import torch

from chatpipe.config.schema import Generation
from chatpipe.generation.next_tokens import next_tokens
from chatpipe.generation.sampling import Sampler

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])


def drawn(settings: Generation, prompts: list[list[int]], count: int) -> torch.Tensor:
    """(count, prompts) tokens, from the same logits every time."""
    samplers = [Sampler(settings, ids) for ids in prompts]
    logits = LOGITS.expand(len(prompts), -1)
    return torch.stack([next_tokens(logits, samplers) for _ in range(count)])


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, LOGITS.softmax(0)),
        (0.5, 1.0, (LOGITS / 0.5).softmax(0)),
        # 0.64 + 0.24 reach 0.8: the rest is never drawn.
        (1.0, 0.8, torch.tensor([2.0, 1.0, *[-torch.inf] * 3]).softmax(0)),
    ],
)
@pytest.mark.parametrize(("prompts", "count"), [(1, 4000), (4000, 1)])
def test_tokens_are_drawn_with_the_model_s_probabilities(
    temperature, top_p, expected, prompts, count
):
    settings = Generation(temperature=temperature, top_p=top_p)
    tokens = drawn(settings, [[n] for n in range(prompts)], count).flatten()
    found = tokens.bincount(minlength=len(LOGITS)) / len(tokens)
    deviations = (expected * (1 - expected) / len(tokens)).sqrt()
    assert ((found - expected).abs() <= 4 * deviations).all()


def test_a_prompt_draws_the_same_whoever_is_beside_it():
    settings = Generation(temperature=1.0)
    one, other, again = drawn(settings, [[1, 2], [2, 1], [1, 2]], 50).T
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(drawn(settings, [[2, 1]], 50)[:, 0], other)
    reseeded = settings.model_copy(update={"seed": 1})
    assert not torch.equal(drawn(reseeded, [[1, 2]], 50)[:, 0], one)


def test_rows_of_different_settings_draw_as_by_themselves():
    settings = [
        Generation(),
        Generation(temperature=1.0),
        Generation(temperature=1.0, top_p=0.8),
        Generation(temperature=1.0, seed=4),
    ]
    together = [Sampler(each, [n]) for n, each in enumerate(settings)]
    mixed = torch.stack([next_tokens(LOGITS.expand(4, -1), together) for _ in range(30)])
    alone = [drawn(each, [[n]], 30)[:, 0] for n, each in enumerate(settings)]
    assert torch.equal(mixed, torch.stack(alone, dim=1))
    assert not mixed[:, 0].any(), "the likeliest one"
