"""Real conversations, and tokenizers with the control tokens of well-known families."""

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import chatpipe

Messages = list[dict[str, str]]
SAMPLES = Path(chatpipe.__file__).parent / "samples" / "chats"
DAILY_DIALOG = Path(__file__).parents[3] / "shared" / "data" / "daily_dialog"
# How the families split text before they merge bytes (from their tokenizer.json).
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama3": _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen3": _WORDS + r"\p{N}" + _REST,
    "smollm2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gemma3": r"\n+| *[^\n ]+| +",
}
CONTROL = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "qwen3": ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "gemma3": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
}


@cache
def sample_conversations() -> list[Messages]:
    """The packaged conversations, in the order of their files."""
    return [
        json.loads(line)["messages"]
        for path in sorted(SAMPLES.glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]


@cache
def conversations(count: int) -> list[Messages]:
    """The packaged conversations, and real dialogues where they are at hand, `count` in all."""
    return [*sample_conversations(), *_dialogues()][:count]


def _dialogues() -> Iterator[Messages]:
    for path in sorted(DAILY_DIALOG.rglob("*.parquet")):
        for utterances in pq.read_table(path)["dialog"].to_pylist():
            turns = [text.strip() for text in utterances]
            yield [
                {"role": role, "content": text}
                for role, text in zip(
                    ("user", "assistant") * (len(turns) // 2), turns, strict=False
                )
            ]


def table_of(rows: Iterable[Messages]) -> pa.Table:
    """The examples of conversations that end with an assistant turn."""
    examples = []
    for messages in rows:
        system = [m["content"] for m in messages if m["role"] == "system"]
        *history, question, reply = [m for m in messages if m["role"] != "system"]
        examples.append(
            {
                "instruction": question["content"],
                "input": "",
                "output": reply["content"],
                "system": system[0] if system else None,
                "history": history or None,
            }
        )
    return pa.Table.from_pylist(examples)


@cache
def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that splits text as the family's does and has its control tokens;
    its merges are learnt from the packaged conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[family]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=list(CONTROL[family]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = [m["content"] for messages in sample_conversations() for m in messages]
    tokenizer.train_from_iterator(texts + ["user assistant model system\n\n"] * 50, trainer)
    bos, eos = CONTROL[family][:2]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
