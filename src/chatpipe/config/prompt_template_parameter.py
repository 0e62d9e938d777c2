"""The flow parameter `prompt_template`: a run may give some of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import TEMPLATES, template


class _NoRequiredKeys:
    """Leaves `required` out of the parameter's JSON schema.

    Prefect's server checks parameters before a run; the run then takes the missing keys from its
    deployment (`run_parameters`).
    """

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core)
        handler.resolve_ref_schema(schema).pop("required", None)
        return schema


def _complete_template(value: Any) -> Any:
    if isinstance(value, str):
        return template(value)
    return {**TEMPLATES["alpaca"].model_dump(), **value} if isinstance(value, Mapping) else value


PromptTemplateParameter = Annotated[
    PromptTemplate, BeforeValidator(_complete_template), _NoRequiredKeys()
]
