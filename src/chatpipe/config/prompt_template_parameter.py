"""The flow parameter `prompt_template`: a run may give some of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.config.prompts import TEMPLATES, any_template


class _NoRequiredKeys:
    """Leaves `required` out of the parameter's JSON schema.

    Prefect's server checks parameters before a run; the run then takes the missing keys from its
    deployment (`run_parameters`).
    """

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core)
        forms = schema.pop("oneOf", [])
        schema.pop("discriminator", None)
        for form in forms:
            handler.resolve_ref_schema(form).pop("required", None)
        return {**schema, "anyOf": forms}  # without required keys, some values fit both forms


def _complete_template(value: Any) -> Any:
    if isinstance(value, str):
        return any_template(value)
    if isinstance(value, Mapping) and not {"chat", "options"} & set(value):
        return {**TEMPLATES["alpaca"].model_dump(), **value}
    return value


PromptTemplateParameter = Annotated[
    AnyTemplate, _NoRequiredKeys(), BeforeValidator(_complete_template)
]
