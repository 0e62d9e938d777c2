"""A model of our own endpoint judges: a whole base of a real server, by its prompt template."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatpipe.errors import ServiceError
from chatpipe.rating.entries import RatingLog
from chatpipe.rating.judge import Judge, judge_pairs
from chatpipe.rating.results import study_ratings
from chatpipe.rating.session import Judgement, Session
from chatpipe.serving.app import create_app
from chatpipe.serving.server import loaded
from tests.support.rating import MODELS, answers_of, pairs_of, served
from tests.support.tiny import tiny_model
from tests.support.tiny_server import served as tiny_variants

VERDICT = "[[A]]"


@pytest.fixture(scope="module")
def judge_dir(tmp_path_factory):
    """A model that ends every prompt with [[A]]: its logits are read from the last token alone."""
    path = tiny_model(tmp_path_factory.mktemp("judge"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens([VERDICT])
    tokenizer.save_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    model.resize_token_embeddings(len(tokenizer))
    verdict, end = tokenizer.convert_tokens_to_ids(VERDICT), tokenizer.eos_token_id
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
        inputs, outputs = model.get_input_embeddings().weight, model.lm_head.weight
        inputs[:, :2] = torch.tensor([1.0, 0.0])
        inputs[verdict, :2] = torch.tensor([0.0, 1.0])
        outputs[verdict, 0] = outputs[end, 1] = 1.0
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return path


def test_a_judge_that_always_prefers_the_first_is_seen_to(judge_dir, chatpipe_home):
    pairs = pairs_of(prompts=2)
    session = Session("study", pairs)
    while pair := session.state("Ada").get("pair"):
        session.rate("Ada", Judgement(token=pair["token"], verdict="tie"))
    with loaded(tiny_variants(judge_dir)) as service:
        base = next(name for name in service.models if name not in ("one", "two"))
        with served(create_app(service, api_key="k")) as address:
            judge = Judge(f"{address}/v1", base, "k")
            judged = judge_pairs(judge, "study", pairs.rated, lambda _: None)
            with pytest.raises(ServiceError, match="HTTP 404"):
                judge_pairs(Judge(judge.url, "none", "k"), "study", pairs.rated, lambda _: None)
            with pytest.raises(ServiceError, match="the key is not accepted"):
                judge_pairs(Judge(judge.url, base, name="b"), "study", pairs.rated, lambda _: None)
    assert (judged.rated, judged.failed) == (6, 0)
    ratings = study_ratings("study", MODELS.values(), answers_of(2), {})
    [figures] = ratings.judges
    assert (figures.ratings, figures.flipped, figures.failed) == (6, 6, {})
    assert (figures.position.first, figures.position.decided) == (12, 12)
    assert (figures.agreed, figures.compared) == (6, 6)  # changed with the order: ties
    assert {e.verdict_swapped for e in RatingLog("study").entries() if e.kind == "model"} == {"b"}
