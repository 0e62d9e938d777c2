"""Text of a reply that is cut within a character, streamed and whole."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chatpipe.generation.batch import completion_of
from chatpipe.generation.reply_text import ReplyText

TEXT = "Hm: 你好, é, 🙂 and \ufffd!"


def tokenizer(kind):
    """Tokens that are bytes, spelled in one of two ways; and one that ends 你 and begins 好."""
    if kind == "byte fallback":
        vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"<unk>": 256}
        model = models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>")
        fast = Tokenizer(model)
        fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        [[spelled, _]] = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("你好")
        merge = spelled[2], spelled[3]
        vocabulary = {letter: number for number, letter in enumerate([*letters, "".join(merge)])}
        fast = Tokenizer(models.BPE(vocabulary, [merge]))
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast)


@pytest.mark.parametrize("kind", ["byte level", "byte fallback"])
def test_a_character_that_is_not_all_there_is_left_out_of_a_cut_reply(kind):
    tokens = tokenizer(kind)
    ids = tokens(TEXT)["input_ids"]
    assert len(ids) == len(TEXT.encode()) - (kind == "byte level")
    seen = set()
    for count in range(len(ids) + 1):
        streamed = ReplyText(tokens, (), is_stripped=True)
        text = "".join([*map(streamed.add, ids[:count]), streamed.end(is_cut=True)])
        seen.add(text)
        assert completion_of(ids[:count], tokens, [-1]).text == text
    # A reply that ends with U+FFFD itself is taken for one that is cut within a character.
    whole = {TEXT[:count].strip() for count in range(len(TEXT) + 1)} - {TEXT[:-1]}
    assert seen == whole
