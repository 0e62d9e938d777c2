"""Settings merged over other settings."""

from __future__ import annotations

from typing import Any


def deep_merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` merged over it: mappings key by key, all else replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = deep_merge(old, value)
        result[key] = value
    return result
