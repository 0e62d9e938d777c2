"""The command `rate`: blind ratings by people or by a model, their figures, and their export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from chatpipe.cli.errors import exit_on_error
from chatpipe.cli.options import AsJson, VariantOrStudy
from chatpipe.errors import ConfigError

if TYPE_CHECKING:
    from chatpipe.rating.judge import Judge, Judged
    from chatpipe.rating.pairs import Model, Pairs
    from chatpipe.report import Answer, Report
    from chatpipe.utils.texts import Language


def rate(
    study: VariantOrStudy,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rate answers to these prompts (JSONL or CSV), which are generated first; without "
            "it, those to the study's panel.",
        ),
    ] = None,
    rater: Annotated[
        str | None, typer.Option(help="Your name; without it, the page asks for it.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8321,
    host: Annotated[
        str, typer.Option(help="An address other machines reach needs CHATPIPE_API_KEY.")
    ] = "127.0.0.1",
    lang: Annotated[
        Literal["en", "zh"], typer.Option(help="Language of the page: English or Chinese.")
    ] = "en",
    seed: Annotated[int, typer.Option(help="Draws the order of pairs and their sides.")] = 0,
    results: Annotated[bool, typer.Option("--results", help="Print the figures so far.")] = False,
    as_json: AsJson = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the ratings as chosen and rejected rows (JSONL)."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Have a model rate the pairs: an OpenAI-compatible endpoint, such as "
            "http://127.0.0.1:8000/v1; its key, if it needs one, is in CHATPIPE_JUDGE_KEY.",
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --judge: the model's name there.")
    ] = None,
    judge_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --judge: its name in the figures."),
    ] = None,
) -> None:
    """Rate the answers of a study's models in pairs, without seeing whose they are, on a page."""
    with exit_on_error():
        _check_options(rater, judge, judge_model, judge_name)
        name, report = _reported(study)
        if results:
            _print_results(name, report, as_json)
        elif export:
            _export(name, export, rater)
        elif judge and judge_model:
            from chatpipe.rating.judge import Judge

            key = os.environ.get("CHATPIPE_JUDGE_KEY") or None
            pairs = _pairs(study, report, prompts, seed)
            _judge(name, pairs, Judge(judge, judge_model, key, judge_name))
        else:
            from chatpipe.web.listening import check_port, required_key

            key = required_key(host)
            check_port(host, port)
            pairs = _pairs(study, report, prompts, seed)
            _serve(name, pairs, rater, (host, port, lang, seed, key))


def _check_options(
    rater: str | None, judge: str | None, judge_model: str | None, judge_name: str | None
) -> None:
    if (judge is None) != (judge_model is None):
        missing = "--judge URL" if judge is None else "--judge-model NAME"
        raise ConfigError([f"rate: --judge and --judge-model go together; add {missing}."])
    if judge_name is not None and judge is None:
        raise ConfigError(["rate: --judge-name goes with --judge; add --judge URL."])
    if rater is not None and not rater.strip():
        raise ConfigError(["--rater: the name is empty; leave the option out."])


def _reported(name: str) -> tuple[str, Report]:
    """Return a study's or variant's name and its newest report, which has the panel's answers.

    A study that was run from a file is known by its report's name, too.
    """
    from chatpipe.config.run_names import rename_study
    from chatpipe.report import read_report
    from chatpipe.study.export import report_directory
    from chatpipe.study.loading import load_variant
    from chatpipe.study.studies import check_name, is_study, load_study, study_variants

    if not is_study(name) and (report_directory(name) / "report.json").is_file():
        full_name, command = name, "compare"
    elif is_study(name):
        study = load_study(name)
        full_name = rename_study(study, study_variants(study, (), name, must_exist=False)).name
        command = "compare"
    else:
        check_name(name)
        full_name, command = load_variant(name, must_exist=False).name, "run"
    try:
        return full_name, read_report(report_directory(full_name))
    except FileNotFoundError:
        raise ConfigError(
            [f"{name}: has no answers to rate yet; run `chatpipe {command} {name}` first."]
        ) from None
    except ValueError:
        file = report_directory(full_name) / "report.json"
        raise ConfigError(
            [f"{file}: is no report; move it away and run `chatpipe {command} {name}`."]
        ) from None


def _pairs(study: str, report: Report, prompts: Path | None, seed: int) -> Pairs:
    """Return the pairs of answers to the panel, or to the prompts of that file."""
    from chatpipe.rating.pairs import make_pairs, models_of

    if prompts is None:
        models, answers = models_of(report), report.answers
    else:
        models, answers = _file_answers(study, report, prompts)
    pairs = make_pairs(models, answers, seed)
    if not pairs.rated:
        raise ConfigError([f"{study}: no two of its models have different answers to one prompt."])
    return pairs


def _file_answers(study: str, report: Report, file: Path) -> tuple[dict[str, Model], list[Answer]]:
    """Generate the answers of the study's models to the prompts of a file."""
    from chatpipe.generation.prompt_file import read_prompts
    from chatpipe.study.rated_answers import answers_to
    from chatpipe.study.studies import load_variants

    prompts = [row.prompt for row in read_prompts(file)]
    variants = load_variants(study, must_exist=False)

    def show(done: int, steps: int) -> None:
        typer.echo(f"{file}: answers, step {done + 1} of {steps}", err=True)

    return answers_to(report, variants, prompts, show)


def _serve(
    name: str, pairs: Pairs, rater: str | None, settings: tuple[str, int, Language, int, str | None]
) -> None:
    from chatpipe.rating.session import Session
    from chatpipe.rating.web import rating_app
    from chatpipe.web.server import serve_until_signal

    host, port, lang, seed, key = settings
    session = Session(name, pairs, seed)
    session.counts()  # a damaged file is found before anyone rates
    same = f"; {pairs.same:,} more have the same answer twice" if pairs.same else ""
    app = rating_app(session, lang, rater, key, host)

    def announce(address: str) -> None:
        typer.echo(f"{len(pairs.rated):,} pairs{same}\n{address}  (Ctrl-C ends it)")

    serve_until_signal(app, (host, port), announce)
    counts = session.counts()
    for one, rated in sorted(counts.items()):
        typer.echo(f"{one}: {rated:,} of {len(pairs.rated):,} pairs rated")
    if counts:
        typer.echo(f"figures: `chatpipe rate {name} --results`, and in the next report.")


def _judge(name: str, pairs: Pairs, judge: Judge) -> None:
    from chatpipe.rating.judge import judge_pairs

    def show(judged: Judged) -> None:
        done = judged.before + judged.rated + judged.failed
        if done % 10 == 0 or done == judged.total:
            typer.echo(f"{done:,} of {judged.total:,} pairs", err=True)

    judged = judge_pairs(judge, name, pairs.rated, show)
    typer.echo(
        f"{judge.rater}: {judged.rated:,} pairs judged, {judged.before:,} before, "
        f"{judged.failed:,} without a verdict (the same command tries these again)"
    )


def _export(name: str, file: Path, rater: str | None) -> None:
    from chatpipe.rating.entries import RatingLog, valid_ratings
    from chatpipe.rating.preferences import preference_rows, write_rows
    from chatpipe.store.disk_errors import disk_errors

    ratings = [
        entry
        for entry in valid_ratings(RatingLog(name).entries())
        if (entry.rater == rater if rater else entry.kind == "person")
    ]
    if not ratings:
        by = f"by {rater}" if rater else "by people"
        raise ConfigError([f"{name}: has no ratings {by}; rate with `chatpipe rate {name}`."])
    rows, left_out = preference_rows(ratings)
    with disk_errors(file):
        write_rows(rows, file)
    typer.echo(f"{file}: {len(rows):,} rows")
    for reason, count in left_out.items():
        typer.echo(f"  left out, {reason}: {count:,}")


def _print_results(name: str, report: Report, as_json: bool) -> None:
    from chatpipe.cli.console import print_ratings
    from chatpipe.rating.pairs import models_of
    from chatpipe.rating.results import rated_together, study_ratings

    configurations = rated_together(
        {each.name: each.models for each in report.configurations},
        {model.name: model.generation for model in report.models},
    )
    models = models_of(report).values()
    ratings: Any = study_ratings(name, models, report.answers, configurations)
    if ratings is None:
        raise ConfigError([f"{name}: has no ratings yet; rate with `chatpipe rate {name}`."])
    if as_json:
        typer.echo(ratings.model_dump_json(indent=1))
    else:
        print_ratings(report.model_copy(update={"ratings": ratings}))
