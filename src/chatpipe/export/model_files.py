"""The files beside a model's weights: its tokenizer, the template that it was trained in, and where
its replies end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatpipe.sources.base_files import TOKENIZER_CONFIG, read_object
from chatpipe.training.adapter_files import CHAT_TEMPLATE, TOKENIZER_FILES


def write_tokenizer(base: Path, into: Path, jinja: str) -> None:
    """Copy the base's tokenizer, with that template in place of the base's own."""
    for name in TOKENIZER_FILES:
        if name != CHAT_TEMPLATE and (base / name).is_file():
            shutil.copyfile(base / name, into / name)
    set_template(into, jinja)


def set_template(directory: Path, jinja: str) -> None:
    """Replace the template of a tokenizer's directory, wherever transformers would find one."""
    shutil.rmtree(directory / "additional_chat_templates", ignore_errors=True)
    (directory / "chat_template.json").unlink(missing_ok=True)
    (directory / CHAT_TEMPLATE).write_text(jinja, "utf-8")
    file = directory / TOKENIZER_CONFIG
    if file.is_file():
        config = read_object(file)
        if config.pop("chat_template", None) is not None:
            file.write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")


def write_generation_config(into: Path, tokenizer: Any, stops: Sequence[int]) -> None:
    """Write the ids at which a reply ends, as training had them."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(stops) if len(stops) > 1 else stops[0],
        pad_token_id=stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )
    config.save_pretrained(into)
