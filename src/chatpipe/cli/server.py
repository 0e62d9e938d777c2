"""The commands `deploy`, `up` and `down`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import OptionalVariantOrStudy
from chatpipe.errors import ConfigError
from chatpipe.server import environment
from chatpipe.server.errors import require_server

Port = Annotated[int, typer.Option(min=1, max=65535, help="The server's port.")]


def deploy(
    name: OptionalVariantOrStudy = None,
    gpu_workers: Annotated[
        str | None,
        typer.Option(
            metavar="DEPLOYMENT",
            help="With a name: the deployment whose workers train, score and answer, like "
            "gpu-steps/gpu; default: the run itself does.",
        ),
    ] = None,
) -> None:
    """Put deployments on the server at PREFECT_API_URL: those of deployments/prefect.yaml, or those
    of one variant or study, by name or file."""
    with exit_on_error():
        from chatpipe.server.deployments_file import load_deployments, named_deployments

        if name is None and gpu_workers:
            raise ConfigError(["--gpu-workers: goes with a variant or a study; name one."])
        # Both refuse a faulty file before Prefect is imported.
        named_deployments(name, gpu_workers) if name else load_deployments()
        require_server()

        from chatpipe.server.deploy import deploy as apply
        from chatpipe.server.deploy import deploy_named

        for line in deploy_named(name, gpu_workers) if name else apply():
            typer.echo(line)


def up(port: Port = 4200) -> None:
    """Start a local server and its workers in the background, unless they run already."""
    with exit_on_error():
        from chatpipe.server import local
        from chatpipe.server.deployments_file import load_deployments

        load_deployments()
        for line in local.up(port):
            typer.echo(line)
        typer.echo(
            f"dashboard: http://{local.HOST}:{port}\n"
            f"for Prefect's own commands: export PREFECT_API_URL={local.api_url(port)}"
            + (f" NO_PROXY={os.environ['NO_PROXY']}" if environment.uses_proxy() else "")
        )


def down() -> None:
    """End the server and the workers that `up` started."""
    with exit_on_error():
        from chatpipe.server import local

        for line in local.down():
            typer.echo(line)
