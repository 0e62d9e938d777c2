"""Settings of runs that the Prefect server keeps: the hub's token and the shared store's address.

A run of a deployment reads them on its worker, unless the worker's environment has them. They are
put into the environment of the run's process, where libraries and the processes of its steps look;
they are not logged and written to no file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from chatpipe.errors import ConfigError
from chatpipe.store.remote import ADDRESS

HUB_TOKEN = "chatpipe-hub-token"  # a Secret block
SHARED_STORE = "chatpipe_shared_store"  # a Variable
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # huggingface_hub reads both


def use_server_settings() -> None:
    """Set HF_TOKEN and CHATPIPE_SHARED_STORE to what the server has, where they are not set.

    Raises:
        ConfigError: A value on the server cannot be used.
    """
    needs_token = not any(os.environ.get(name) for name in TOKEN_VARIABLES)
    needs_store = not os.environ.get(ADDRESS)
    if not (needs_token or needs_store):
        return
    with get_client(sync_client=True) as client:
        if needs_token and (token := _hub_token(client)):
            os.environ["HF_TOKEN"] = token
        if needs_store and (address := _shared_store(client)):
            os.environ[ADDRESS] = address


def _hub_token(client: SyncPrefectClient) -> str | None:
    try:
        block = client.read_block_document_by_name(HUB_TOKEN, "secret", include_secrets=True)
    except ObjectNotFound:
        return None
    value = block.data.get("value")
    # Without `from`: an error of another library could quote the value.
    if not isinstance(value, str) or not value.strip() or value != value.strip():
        raise ConfigError(
            [f"Secret {HUB_TOKEN}: must be a text without spaces around it; save the token anew."]
        )
    return value


def _shared_store(client: SyncPrefectClient) -> str | None:
    variable = client.read_variable_by_name(SHARED_STORE)
    if variable is None:
        return None
    value: Any = variable.value
    if not isinstance(value, str) or not ("://" in value or Path(value).is_absolute()):
        raise ConfigError(
            [
                f"Variable {SHARED_STORE}: must be an address such as s3://bucket/folder, or a "
                "directory's path from the root; it is the same for every worker."
            ]
        )
    return value
