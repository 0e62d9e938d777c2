"""The parameter `prompt_template`, of which a run may give one text and leave the other out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import TEMPLATES, template


class _NothingRequired:
    """Prefect's server checks parameters before the run, which takes what is left out from its
    deployment (`run_parameters`)."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core)
        handler.resolve_ref_schema(schema).pop("required", None)
        return schema


def _completed(value: Any) -> Any:
    if isinstance(value, str):
        return template(value)
    return {**TEMPLATES["alpaca"].model_dump(), **value} if isinstance(value, Mapping) else value


PromptTemplateParameter = Annotated[PromptTemplate, BeforeValidator(_completed), _NothingRequired()]
