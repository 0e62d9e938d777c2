"""What the HTTP servers share: where they listen, who may ask, what replies have, how they end."""

from __future__ import annotations
