"""The base class of all sections of the settings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
MAX_NAME = 80  # characters
Name = Annotated[
    str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME, description="a-z, 0-9, . _ -")
]


class Section(BaseModel):
    """Base of every part: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_from_a_word(cls, value: Any, info: ValidationInfo) -> Any:
        """`epochs: true` is no number, though Python counts true as 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation in (int, float, int | None):
            raise ValueError("expected a number")
        return value
