"""The command `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import VARIANT_HELP, complete_names
from chatpipe.errors import ConfigError
from chatpipe.utils.quantities import count_of
from chatpipe.utils.unique import unique_by

if TYPE_CHECKING:
    from chatpipe.config.schema import Variant

DEFAULT_PORT = 8000


def serve(
    variants: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VARIANT]...", help=VARIANT_HELP, autocompletion=complete_names("variants")
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Serve all variants of this study.",
            autocompletion=complete_names("studies"),
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Where to listen; beyond this machine, CHATPIPE_API_KEY is required."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = DEFAULT_PORT,
    queue: Annotated[
        int, typer.Option(min=1, max=4096, help="How many replies may wait; more are refused.")
    ] = 64,
    print_vllm: Annotated[
        bool, typer.Option("--print-vllm", help="Print the command that serves them by vLLM.")
    ] = False,
) -> None:
    """Serve trained variants of one base over OpenAI's HTTP interface."""
    with exit_on_error():
        from chatpipe.runtime.environment import prepare
        from chatpipe.serving.served_models import served_base
        from chatpipe.serving.vllm_command import vllm_command
        from chatpipe.store.store import store
        from chatpipe.study.lookup import needs_run_of
        from chatpipe.web.listening import check_port, required_key

        api_key = required_key(host)
        if not print_vllm:
            check_port(host, port)
        named, of_study = _chosen_variants(variants or [], study)
        with needs_run_of(study, of_study):
            served = served_base(unique_by([*named, *of_study], lambda variant: variant.name))
        for _, model in served.variants:
            for artifact in model.artifacts():
                store().fetch(artifact)
        if print_vllm:
            typer.echo(vllm_command(served))
            return
        prepare()
        from chatpipe.page import page_router
        from chatpipe.page.routes import PUBLIC_PATHS
        from chatpipe.serving.server import loaded, run

        def announce(address: str) -> None:
            typer.echo(
                f"{address}v1 serves {', '.join(service.models)}\n"
                f"{address}  is a page that asks them; Ctrl-C ends the server."
            )

        pages = ([page_router()], PUBLIC_PATHS)
        typer.echo("loading the model …", err=True)
        with loaded(served, queue) as service:
            run(service, (host, port), api_key, announce, _say_what_is_finished, pages)


def _say_what_is_finished(replies: int) -> None:
    if replies:
        number = count_of(replies, "reply", "replies")
        typer.echo(f"finishing {number}; Ctrl-C ends the server at once.")


def _chosen_variants(names: list[str], study: str | None) -> tuple[list[Variant], list[Variant]]:
    """Return the variants that the command names, and those of the study."""
    from chatpipe.study.loading import load_variant
    from chatpipe.study.studies import load_variants

    if not names and study is None:
        raise ConfigError(["serve: name at least one variant, or a study with --study NAME."])
    of_study = load_variants(study) if study is not None else []
    return [load_variant(name) for name in names], of_study
