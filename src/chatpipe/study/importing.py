"""A variant of an adapter that was trained elsewhere: its settings, and its copy in the store."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.base import MAX_NAME, NAME_PATTERN
from chatpipe.config.prompt_schema import OWN_CHAT_TEMPLATE
from chatpipe.config.prompts import CHATS, TEMPLATES
from chatpipe.config.run_names import name_of_file
from chatpipe.config.schema import AUTO, Lora, Variant
from chatpipe.config.validation import suggest_name
from chatpipe.config.yaml_files import read_mapping
from chatpipe.data.catalog import DATASETS
from chatpipe.errors import ConfigError
from chatpipe.models.loading import load_tokenizer
from chatpipe.sources.base_files import read_object
from chatpipe.sources.local_paths import local_path, looks_like_hub_id
from chatpipe.store.artifact import Artifact
from chatpipe.study.export import export_variant, saved_variant
from chatpipe.study.files import names
from chatpipe.study.loading import load_variant
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from chatpipe.study.variants import load_file, parse_variant
from chatpipe.training.adapter_files import TEMPLATE
from chatpipe.training.import_adapter import adapter_content
from chatpipe.training.imported_config import config_faults, read_config
from chatpipe.training.imported_tokenizer import chat_template_of

_OF_LIKE = (
    *("base_model", "datasets", "split", "heldout"),
    *("quantization", "evaluation", "panel", "generation"),
)


BESIDE = "beside-the-adapter"  # the name of a chat template that is not the base's own


@dataclass(frozen=True)
class ImportOptions:
    """What a person says of an adapter.

    like: a variant whose base, rows, panel and settings of evaluation are taken; base_model,
    datasets: in their place. template: the one that it was trained in. same_base: its base has
    another name here. trained_on: on what, in words.
    """

    like: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    template: str | None = None
    same_base: bool = False
    trained_on: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """A variant whose adapter is in the store, and the file of its settings."""

    variant: Variant
    adapter: Artifact
    file: Path
    is_template_given: bool

    def notes(self) -> list[str]:
        """What has to be known of it, a sentence each."""
        notes: list[str] = self.adapter.details()["notes"]
        is_nf4 = self.variant.quantization.method == "nf4"
        held, other = ("NF4", "none") if is_nf4 else ("full precision", "nf4")
        template = self.variant.prompt_template.name
        ways = [] if self.is_template_given else ["--template"]
        ways.append(f"--set quantization.method={other}")
        return [
            f"it is asked and scored in the template {template}, on the base in {held}; if it was "
            "trained in another way, its figures are not its own: import it with "
            f"{' or '.join(ways)}.",
            *notes,
        ]


def import_adapter(directory: Path, name: str, options: ImportOptions) -> Imported:
    """Copy the adapter into the store and write the variant's file.

    Raises:
        ConfigError: An option is not valid, or the name is that of something else.
        AdapterError: It is no LoRA adapter of that base, or its numbers cannot be used.
    """
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > MAX_NAME:
        raise ConfigError(
            [
                f"--as {json.dumps(name)}: a name has a-z, 0-9, '.', '_' and '-', a letter or "
                f"digit first, and at most {MAX_NAME} characters, like my-adapter."
            ]
        )
    directory = directory.expanduser().absolute()
    content = adapter_content(directory)
    config = read_config(directory)
    faults = config_faults(config)
    if faults:
        raise ConfigError([f"{directory}: {fault}" for fault in faults])
    raw = _settings(config, options)
    raw["imported"] = {
        "path": str(directory),
        "content": content,
        "same_base": options.same_base,
        "trained_on": options.trained_on,
    }
    if options.template is not None:
        raw["prompt_template"] = _given_template(options.template)
    is_given = options.template is not None or any(
        text.startswith("prompt_template") for text in options.overrides
    )
    overrides = [*options.overrides, f"name={json.dumps(name)}"]
    variant = parse_variant({**raw, "name": name}, "command line", overrides)
    _check_name(variant)
    recipe = Recipe([variant], StoreBuilder())
    if not is_given:
        raw["prompt_template"] = _template_beside(directory, recipe.base(variant))
        variant = parse_variant({**raw, "name": name}, "command line", overrides)
    _check_settings(variant)
    adapter = recipe.import_adapter(variant)
    assert adapter
    return Imported(variant, adapter, export_variant(variant), is_given)


def _settings(config: dict[str, Any], options: ImportOptions) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    if options.like is not None:
        like = load_variant(options.like).model_dump(mode="json")
        raw = {key: like[key] for key in _OF_LIKE if like[key] is not None}
    if options.base_model is not None:
        raw["base_model"] = {"repo": options.base_model}
    elif "base_model" not in raw:
        raw["base_model"] = _own_base(config)
    if options.datasets:
        raw["datasets"] = [_dataset(text) for text in options.datasets]
    if "datasets" not in raw:
        raise ConfigError(
            [
                "--dataset: name rows on whose held-out part it is scored (a data set of the "
                "catalogue, a file, or a hub data set), or a variant to compare it with, --like."
            ]
        )
    return {**raw, "lora": _lora(config)}


def _own_base(config: dict[str, Any]) -> dict[str, Any]:
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not (local_path(named) or looks_like_hub_id(named)):
        raise ConfigError(
            [f"--base-model: name the adapter's base; {named or 'the one it names'} is not here."]
        )
    revision = config.get("revision")
    is_hub = local_path(named) is None
    return {"repo": named, **({"revision": revision} if is_hub and revision else {})}


def _dataset(text: str) -> str | dict[str, Any]:
    """A data set of the catalogue by its name, or a source of rows."""
    if text in DATASETS:
        return text
    local = local_path(text)
    if local is None and not looks_like_hub_id(text):
        raise ConfigError(
            [f"--dataset {text}: there is no such file; {suggest_name(text, [*DATASETS])}"]
        )
    source = {"repo": text} if local is None else {"path": str(local)}
    return {"name": name_of_file(Path(text)), **source, "format": AUTO}


def _lora(config: dict[str, Any]) -> dict[str, Any]:
    """The adapter's shape as settings, as far as these can have it; for people only."""
    alpha = config["lora_alpha"]
    modules = config["target_modules"]
    shape = {
        "rank": min(config["r"], 512),
        "alpha": max(1, min(round(alpha), 4096)),
        "dropout": float(config.get("lora_dropout") or 0.0),
        "target_modules": [modules] if isinstance(modules, str) else sorted(set(modules)),
    }
    return Lora.model_validate(shape).model_dump(mode="json")


def _given_template(template: str) -> Any:
    """What --template says: a name, or a file of Jinja text."""
    known = [*TEMPLATES, *CHATS]
    if template in known:
        return template
    file = local_path(template)
    if file is None or not file.is_file():
        raise ConfigError([f"--template {template}: {suggest_name(template, known)}"])
    return {"name": name_of_file(file), "chat": file.read_text("utf-8")}


def _template_beside(directory: Path, base: Artifact) -> Any:
    """The template that chatpipe itself wrote beside an adapter, else the chat template there;
    ConfigError where there is neither."""
    content = _written_template(directory)
    if {"with_input", "without_input"} <= content.keys():
        return {key: content[key] for key in ("name", "with_input", "without_input")}
    text = chat_template_of(directory)
    if text is None:
        raise ConfigError(
            [
                f"--template: nothing in {directory} says how its prompts were written; name the "
                f"template that it was trained in ({', '.join([*TEMPLATES, *CHATS])}), or a file "
                "of Jinja text, or give texts of your own with --set prompt_template.with_input=… "
                "and prompt_template.without_input=…"
            ]
        )
    is_own = text == load_tokenizer(base.path).chat_template
    template = {"chat": OWN_CHAT_TEMPLATE} if is_own else {"name": BESIDE, "chat": text}
    written = {key: content[key] for key in ("name", "options") if key in content}
    return {**template, **written}


def _written_template(directory: Path) -> dict[str, Any]:
    """What chatpipe itself wrote of an adapter's template; nothing where it was not chatpipe."""
    file = directory / TEMPLATE
    if not file.is_file():
        return {}
    try:
        return read_object(file)
    except ValueError as error:
        raise ConfigError([f"{directory}: {error}"]) from None


def _check_name(variant: Variant) -> None:
    """ConfigError where the name is that of a variant, a study, or a run with other settings."""
    if variant.name in {*names("variants"), *names("studies")}:
        raise ConfigError([f"--as {variant.name}: is the name of a variant or a study; take one."])
    saved = saved_variant(variant.name)
    if not saved.is_file():
        if saved.parent.exists():
            raise ConfigError(
                [f"--as {variant.name}: {saved.parent} is there already; take another name."]
            )
        return
    recorded = read_mapping(saved).get("imported")
    assert variant.imported
    if not isinstance(recorded, dict) or recorded.get("content") != variant.imported.content:
        raise ConfigError(
            [f"--as {variant.name}: is the name of another run ({saved}); take another name."]
        )


def _check_settings(variant: Variant) -> None:
    """ConfigError where the same adapter has that name with other settings: a study that has it
    would be another one, without a word."""
    saved = saved_variant(variant.name)
    if not saved.is_file():
        return
    changed = _differing_settings(load_file(saved, must_exist=False), variant)
    if changed:
        raise ConfigError(
            [
                f"--as {variant.name}: is this adapter with other settings ({', '.join(changed)}; "
                f"{saved}); take another name, change them in that file, or remove {saved.parent} "
                "with the reports in it to import it anew."
            ]
        )


def _differing_settings(one: Variant, other: Variant) -> list[str]:
    """The settings in which two variants differ, but for where the adapter's directory was."""
    first, second = one.model_dump(mode="json"), other.model_dump(mode="json")
    for settings in (first, second):
        del settings["imported"]["path"]
    return [key for key in first if first[key] != second[key]]
