"""The files beside an adapter's weights with which it can be used without chatpipe: the name of
its base, the tokenizer and the prompt template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from chatpipe.config.prompt_schema import AnyTemplate, PromptTemplate
from chatpipe.store.artifact import Artifact
from chatpipe.tokenization.chat_renderer import ChatRenderer
from chatpipe.tokenization.text_encoder import TextEncoder, start_ids

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TEMPLATE = "prompt_template.json"
CHAT_TEMPLATE = "chat_template.jinja"  # where transformers looks for it
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    CHAT_TEMPLATE,
)


def save_adapter(model: Any, base: Artifact, into: Path) -> None:
    """Write the adapter as peft does, but without what differs between processes and stores: the
    order of a set, and the directory of the base."""
    # Without the base's own output layer, which peft adds where `lm_head` has an adapter.
    model.save_pretrained(into, save_embedding_layers=False)
    config = json.loads((into / CONFIG).read_text("utf-8"))
    write_config(config, base, into)


def write_config(config: dict[str, Any], base: Artifact, into: Path) -> None:
    """Write peft's configuration with the base's whole name, in an order that is always the
    same."""
    modules = config["target_modules"]
    details = base.details()
    content = {
        **config,
        "target_modules": sorted(modules) if isinstance(modules, list) else modules,
        "base_model_name_or_path": base_name(details),
        "revision": details.get("commit"),
    }
    (into / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True), "utf-8")


def save_prompt_files(base: Path, prompt_template: AnyTemplate, tokenizer: Any, into: Path) -> None:
    """The base's tokenizer, and the template with what its text is encoded by: the token ids that
    a prompt begins with, and whether no control token is recognized in it; of a chat template, its
    text where transformers finds it, its options, and the ids that end a reply."""
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, into / name)
    if isinstance(prompt_template, PromptTemplate):
        control = TextEncoder(tokenizer).pattern
        texts = (prompt_template.with_input, prompt_template.without_input)
        content = {
            **prompt_template.model_dump(),
            "start_ids": start_ids(tokenizer),
            "plain_text": not any(map(control.search, texts)),
        }
    else:
        renderer = ChatRenderer(tokenizer, prompt_template)
        (into / CHAT_TEMPLATE).write_text(renderer.text.jinja, "utf-8")
        content = {
            "name": prompt_template.name,
            "options": prompt_template.options,
            "stop_ids": renderer.stops,
        }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (into / TEMPLATE).write_text(text, "utf-8")


def base_name(details: dict[str, Any]) -> str:
    """Return the base's name for from_pretrained: the hub repository, or the name of a directory
    (for a file in a wheel, its name without the suffix)."""
    if details.get("source") == "hub":
        return str(details["repo"])
    if details.get("source") == "wheel":
        return Path(details["member"]).stem
    return Path(details["path"]).name
