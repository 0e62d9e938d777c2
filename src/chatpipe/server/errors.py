"""Errors of the server at PREFECT_API_URL, as sentences."""

from __future__ import annotations

from urllib.parse import urlsplit

from chatpipe.errors import ConfigError


def require_server() -> None:
    """ConfigError where PREFECT_API_URL is not set, in the environment or in Prefect's profile:
    Prefect would start a temporary server."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ConfigError(
            ["PREFECT_API_URL: is not set; set it to a server's address; `chatpipe up` starts one."]
        )


def server_error_sentence(error: BaseException) -> str | None:
    """Return an error of the server or of the connection as a sentence; None for other errors."""
    from httpx import HTTPStatusError, InvalidURL, TransportError
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    where = f"PREFECT_API_URL {_shown(url)}" if url else "the temporary server"
    if isinstance(error, HTTPStatusError):
        answer = error.response
        return f"{where}: the server answers {answer.status_code}: {answer.text.strip()[:300]}"
    unreachable = any(words in str(error) for words in ("Failed to reach API", "ephemeral Prefect"))
    if isinstance(error, TransportError | InvalidURL) or unreachable:
        remedy = "start it, or set another address" if url else "run the command again to go on"
        return f"{where}: no server answers; {remedy}."
    return None


def _shown(url: str) -> str:
    """Return the address without user name and password."""
    try:
        parts = urlsplit(url)
        _, at, host = parts.netloc.rpartition("@")
    except ValueError:
        return "(not a valid address)"
    return parts._replace(netloc=host).geturl() if at else url
