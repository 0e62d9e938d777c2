"""Settings merged over other settings."""

from __future__ import annotations

from typing import Any

# Keys of the two forms of a prompt template, which are not mixed.
_FORMS = ({"with_input", "without_input"}, {"chat", "options"})


def deep_merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` merged over it: mappings key by key, all else replaced."""
    result = {} if _are_of_other_forms(base, changes) else dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = deep_merge(old, value)
        result[key] = value
    return result


def _are_of_other_forms(base: dict[str, Any], changes: dict[str, Any]) -> bool:
    texts, chat = _FORMS
    return bool(
        (texts & set(base) and chat & set(changes)) or (chat & set(base) and texts & set(changes))
    )
