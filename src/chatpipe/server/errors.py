"""The server that PREFECT_API_URL names: what is said when there is none, or it does not do as it
should."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from chatpipe.errors import ConfigError


def require_server() -> None:
    """ConfigError where no server is named: Prefect would start one for this command alone."""
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            ["PREFECT_API_URL: is not set, so no server is known; `chatpipe up` starts one here."]
        )


def in_a_sentence(error: BaseException) -> str | None:
    """What to say of an error of talking to the server; None where it is another error."""
    from httpx import HTTPStatusError, InvalidURL, TransportError
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    where = f"PREFECT_API_URL {_shown(url)}" if url else "the server of this command"
    if isinstance(error, HTTPStatusError):
        answer = error.response
        return f"{where}: the server answers {answer.status_code}: {answer.text.strip()[:300]}"
    unreachable = any(words in str(error) for words in ("Failed to reach API", "ephemeral Prefect"))
    if isinstance(error, TransportError | InvalidURL) or unreachable:
        mend = "start it, or name another" if url else "run the command again to go on"
        return f"{where}: no server answers; {mend}."
    return None


def _shown(url: str) -> str:
    """The address without the account in it."""
    try:
        parts = urlsplit(url)
        _, at, host = parts.netloc.rpartition("@")
    except ValueError:
        return "(which is no address)"
    return parts._replace(netloc=host).geturl() if at else url
