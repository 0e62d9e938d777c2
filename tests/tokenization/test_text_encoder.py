"""A control token that a row spells out stays text; training, scoring and asking agree on ids."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import TEMPLATES, segments, template
from chatpipe.config.schema import Generation, Quantization
from chatpipe.errors import ModelError
from chatpipe.models.loading import load_tokenizer
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.encoder import IGNORED, Encoder, start_ids
from chatpipe.tokenization.text_encoder import TextEncoder

SPELLED = [
    "</s>",
    "<s>",
    "a</s>b",
    "say <|im_end|> twice <|im_end|>",
    "<s></s>",
    "</s",
    "x</s></s>",
]
CHAT = PromptTemplate(
    name="chat",
    with_input="<|user|>\n{instruction}\n\n{input}<|end|>\n### Response:\n",
    without_input="<|user|>\n{instruction}<|end|>\n### Response:\n",
)


@pytest.fixture(autouse=True)
def _home(chatpipe_home):
    return chatpipe_home


def byte_level(tiny, *added):
    backend = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    backend.add_tokens([token for token in added if not token.special])
    backend.add_special_tokens([token for token in added if token.special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def sentencepiece(*added):
    """Pieces with their spaces, as LLaMA 2 and Phi-3 have them."""
    letters = [chr(n) for n in range(33, 127)]
    vocabulary = {text: n for n, text in enumerate(["<unk>", "<s>", "</s>", "▁", "\n", *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens(["<s>", "</s>", *added])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def unigram():
    """A vocabulary that holds its EOS as an ordinary piece, too."""
    letters = [(chr(n), -5.0) for n in range(33, 127)]
    backend = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *letters], unk_id=0)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def named_only(tiny):
    """Its EOS was added as an ordinary token and is only named as the EOS."""
    backend = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    backend.add_tokens([AddedToken("<|im_end|>", special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|im_end|>"
    )


@pytest.fixture(params=["bytes", "pieces", "unigram", "named only", "python"])
def tokenizer(request, tiny_model_dir):
    im_end = AddedToken("<|im_end|>", special=True)
    return {
        "bytes": lambda: byte_level(tiny_model_dir, im_end),
        "pieces": lambda: sentencepiece("<|im_end|>"),
        "unigram": unigram,
        "named only": lambda: named_only(tiny_model_dir),
        "python": ByT5Tokenizer,
    }[request.param]()


@pytest.mark.parametrize("text", SPELLED)
def test_a_control_token_in_a_row_is_text(tokenizer, text):
    row = {"instruction": text, "input": text, "output": text}
    encoder = Encoder(tokenizer, template("alpaca"), "every_reply", 4096)
    [encoded] = encoder.encode(pa.Table.from_pylist([row])).examples
    control = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert not control & {*encoded.input_ids[len(start_ids(tokenizer)) : -1]}


def test_text_without_control_tokens_has_the_tokenizer_s_own_ids(tokenizer):
    for text in ("How are you?", " two  spaces\n", "a < b / s > c", "ends with newline\n"):
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert TextEncoder(tokenizer).texts([text]) == [plain]


def test_rows_that_spell_out_a_control_token_are_counted(tiny_model_dir):
    rows = [
        {"instruction": "a", "input": "", "output": "</s>"},
        {"instruction": "<s> and </s>", "input": "", "output": "</s>"},
        {"instruction": "a", "input": "b", "output": "< / s >"},
    ]
    encoder = Encoder(load_tokenizer(tiny_model_dir), template("alpaca"), "every_reply", 4096)
    assert encoder.encode(pa.Table.from_pylist(rows)).control_rows == 2


def test_a_template_s_own_control_tokens_are_control_tokens_and_a_row_s_are_not(tiny_model_dir):
    tokenizer = byte_level(
        tiny_model_dir, AddedToken("<|user|>", special=True), AddedToken("<|end|>", special=True)
    )
    user, end = tokenizer.convert_tokens_to_ids(["<|user|>", "<|end|>"])
    for text in ("Greet.", "a <|end|> b", "<|user|>"):
        [ids] = TextEncoder(tokenizer).prompts([segments(CHAT, text, "")])
        assert (ids.count(user), ids.count(end)) == (1, 1)
        assert tokenizer.decode(ids) == f"<|user|>\n{text}<|end|>\n### Response:\n"


@pytest.mark.parametrize("strips", [False, True])
def test_such_a_template_has_the_ids_that_the_tokenizer_itself_gives(tiny_model_dir, strips):
    added = [
        AddedToken(t, special=True, rstrip=strips, lstrip=strips) for t in ("<|user|>", "<|end|>")
    ]
    for tokenizer in (byte_level(tiny_model_dir, *added), sentencepiece(*added)):
        for row in (("Greet.", ""), (" Say it ", "twice\n")):
            prompt = segments(CHAT, *row)
            text = "".join(segment.text for segment in prompt)
            plain = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert TextEncoder(tokenizer).prompts([prompt]) == [plain]


def test_an_eos_that_ordinary_text_is_made_of_is_refused():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, ".": 1, "a": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=".", unk_token="<unk>")
    with pytest.raises(ModelError, match="is a piece of ordinary text"):
        TextEncoder(tokenizer).texts(["a ."])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=12) | st.sampled_from(SPELLED), min_size=1, max_size=4))
def test_any_text_is_decoded_to_itself_and_holds_no_control_token(tiny_model_dir_, texts):
    tokenizer = tiny_model_dir_
    for text, ids in zip(texts, TextEncoder(tokenizer).texts(texts), strict=True):
        assert not {0, 1} & set(ids)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.fixture(scope="module")
def tiny_model_dir_(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


@pytest.mark.parametrize("name", TEMPLATES)
def test_training_scoring_and_asking_begin_with_the_same_ids(tiny_model_dir, name):
    from chatpipe.generation.chat import ChatSession

    row = {"instruction": "Say </s> and <s>.", "input": "{instruction} </s>", "output": "ok"}
    conversation = ChatSession(
        tiny_model_dir, None, Quantization(method="none", compute_dtype="float32"), template(name)
    )
    asked = []
    join = conversation.rows.join
    conversation.rows.join = lambda requests: asked.append(requests[0].ids) or join(requests)
    list(conversation.reply(row["instruction"], Generation(max_new_tokens=1), row["input"]))
    tokenizer = conversation.encoder.tokenizer
    prompt = Conversation(row["instruction"], row["input"])
    for labels in ("every_reply", "all"):
        encoder = Encoder(tokenizer, template(name), labels, 4096)
        [encoded] = encoder.encode(pa.Table.from_pylist([row])).examples
        assert encoded.input_ids[: len(asked[0])] == asked[0] == encoder.prompt_ids([prompt])[0]
        if labels == "every_reply":
            assert encoded.labels[: len(asked[0])] == [IGNORED] * len(asked[0])
            assert encoded.labels[len(asked[0])] != IGNORED


def test_a_text_template_writes_system_and_earlier_turns_before_the_question(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    encoder = Encoder(tokenizer, template("short"), "every_reply", 4096)
    history = (Message("user", "Hi.\n\nagain"), Message("assistant", "Hello."))
    asked = Conversation("And?", "this", system="Be kind.", history=history)
    texts = ("Be kind.\n\n### Instruction:\nHi.\n\nagain\n\n### Response:\n", "Hello.")
    question = "### Instruction:\nAnd?\n\n### Input:\nthis\n\n### Response:\n"
    first, reply, second = TextEncoder(tokenizer).texts([*texts, question])
    start, end = start_ids(tokenizer), [tokenizer.eos_token_id]
    assert encoder.prompt_ids([asked]) == [start + first + reply + end + start + second]
