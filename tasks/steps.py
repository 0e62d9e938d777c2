"""The steps of a study as cached tasks: each takes one request and gives one artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

from prefect.logging import get_run_logger
from prefect.utilities.annotations import quote

from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.data.own_heldout import HoldOut
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.generation.ask_batch import AskBatch
from chatpipe.generation.replies import Reply
from chatpipe.harness.fetch_task import FetchTask
from chatpipe.harness.run_task import RunTask
from chatpipe.report.build import MakeReport
from chatpipe.runtime.worker import SharedWorker
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.hub_splits import FindSplits, ReadSplit
from chatpipe.sources.saved_rows import ReadSaved
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.store import store
from chatpipe.study.template_check import CheckChatTemplate
from chatpipe.training.finetune import Finetune
from chatpipe.training.import_adapter import ImportAdapter
from chatpipe.training.together import FinetuneTogether
from tasks.caching import find_without_task, step
from tasks.showing import progress_shown


@step(task_run_name="download {label}")
def download(request: FetchDataset, label: str) -> Artifact:
    """Download a data set's files."""
    return store().get_or_build(request)


@step(task_run_name="find splits {label}")
def find_splits(request: FindSplits, label: str) -> Artifact:
    """Ask the hub for a data set's commit and for the files of its splits."""
    return store().get_or_build(request)


@step(task_run_name="download {label}")
def read_split(request: ReadSplit, label: str) -> Artifact:
    """Download the files of a split and read its rows."""
    return store().get_or_build(request)


@step(task_run_name="read {label}")
def read_saved(request: ReadSaved, label: str) -> Artifact:
    """Read the rows of a directory that `save_to_disk` wrote."""
    return store().get_or_build(request)


@step(task_run_name="download {label}")
def download_base(request: FetchModel, label: str) -> Artifact:
    """Download the base model, as safetensors."""
    return _in_worker(request, f"base model {label}")


@step(task_run_name="normalize {label}")
def normalize(request: Normalize, label: str) -> Artifact:
    """Turn rows into instruction, input and output; store the dropped rows beside them."""
    examples = store().get_or_build(request)
    for warning in examples.details()["warnings"]:
        get_run_logger().warning(warning)
    return examples


@step(task_run_name="merge {label}")
def merge(request: Merge, label: str) -> Artifact:
    """Merge data sets into a corpus with a training and a held-out split."""
    return store().get_or_build(request)


@step(task_run_name="hold out {label}")
def hold_out(request: HoldOut, label: str) -> Artifact:
    """Keep the held-out rows of one's own that no model is trained on."""
    return store().get_or_build(request)


@step(task_run_name="fine-tune {label}")
def finetune_adapter(request: Finetune, label: str, others: Sequence[Finetune] = ()) -> Artifact:
    """Train the adapter in a worker process.

    The process may train the others along with it, and then stores their adapters itself: their
    own tasks find these.
    """
    return _in_worker(
        request, f"fine-tune {label}", None, lambda: FinetuneTogether.of(request, others)
    )


@step(task_run_name="import {label}")
def import_adapter(request: ImportAdapter, label: str) -> Artifact:
    """Store a copy of an adapter that was trained elsewhere, its base checked."""
    return _in_worker(request, f"import {label}")


# Within `EVAL_WORKER.keep_alive()`, a base is loaded once for all scores and answers.
EVAL_WORKER = SharedWorker()


@step(task_run_name="check template of {label}")
def check_template(request: CheckChatTemplate, label: str) -> Artifact:
    """Try a base's own chat template on what it would be scored on and asked."""
    return _in_worker(request, f"check template of {label}", EVAL_WORKER)


@step(task_run_name="score {label}")
def score(request: Score, label: str) -> Artifact:
    """Compute a model's nats of every held-out row."""
    return _in_worker(request, f"score {label}", EVAL_WORKER)


@step(task_run_name="ask {label}")
def ask(request: Ask, label: str, others: Sequence[Ask] = ()) -> Artifact:
    """Generate a model's answers to the panel.

    Within `EVAL_WORKER.keep_alive()`, the same batches may hold the prompts of the others too;
    their own tasks then only store the answers.
    """
    return _in_worker(request, f"ask {label}", EVAL_WORKER, lambda: AskBatch.of(request, others))


@step(task_run_name="reply {label}")
def reply(request: Reply, label: str) -> Artifact:
    """Generate a model's replies to held-out rows and compare them with the rows' own."""
    return _in_worker(request, f"reply {label}", EVAL_WORKER)


@step(task_run_name="fetch task {label}")
def fetch_task(request: FetchTask, label: str) -> Artifact:
    """Store a task of lm-evaluation-harness with its data."""
    return _in_worker(request, f"fetch task {label}")


@step(task_run_name="run task {label}")
def run_task(request: RunTask, label: str) -> Artifact:
    """Evaluate a model on a task of lm-evaluation-harness."""
    return _in_worker(request, f"run task {label}", EVAL_WORKER)


class Candidates(NamedTuple):
    """Requests of other steps that a step may be computed along with."""

    asks: Sequence[Ask]
    trainings: Sequence[Finetune]


def candidates(requests: Iterable[Request]) -> Candidates:
    """Return those of the requests that may be computed along with others, quoted, so that Prefect
    does not make a task wait for the artifacts in them."""
    listed = list(requests)
    asks = [request for request in listed if isinstance(request, Ask)]
    trainings = [request for request in listed if isinstance(request, Finetune)]
    return Candidates(cast(Sequence[Ask], quote(asks)), cast(Sequence[Finetune], quote(trainings)))


NO_CANDIDATES = Candidates((), ())


@step(task_run_name="report {label}")
def make_report(request: MakeReport, label: str) -> Artifact:
    """Write report.json, report.md and report.html."""
    return store().get_or_build(request)


TASKS: dict[type[Request], Callable[[Any, str], Artifact]] = {
    FetchDataset: download,
    FindSplits: find_splits,
    ReadSplit: read_split,
    ReadSaved: read_saved,
    FetchModel: download_base,
    Normalize: normalize,
    Merge: merge,
    HoldOut: hold_out,
    Finetune: finetune_adapter,
    ImportAdapter: import_adapter,
    CheckChatTemplate: check_template,
    Score: score,
    Reply: reply,
    FetchTask: fetch_task,
    RunTask: run_task,
    MakeReport: make_report,
}


def run(request: Request, label: str, others: Candidates = NO_CANDIDATES) -> Artifact:
    """Run the task of a request; `others` may be computed along with it.

    In a study with many cached steps, the last of them have no task.
    """
    if artifact := find_without_task(request):
        return artifact
    if isinstance(request, Ask):
        return ask(request, label, others.asks)
    if isinstance(request, Finetune):
        return finetune_adapter(request, label, others.trainings)
    return TASKS[type(request)](request, label)


def _in_worker(
    request: Request,
    label: str,
    worker: SharedWorker | None = None,
    sent_request: Callable[[], Request] | None = None,
) -> Artifact:
    """Return the artifact of the request, built in a worker process if it does not exist.

    Args:
        request: What the artifact is stored as.
        label: The step and the variant, for the dashboard.
        worker: The process; a new one where left out.
        sent_request: Makes the request that the process builds, where it is another one with the
            same product.
    """
    build = (worker or SharedWorker()).build
    with progress_shown(label) as (on_progress, on_line):
        return store().get_or_build(
            request,
            lambda into: build(
                sent_request() if sent_request else request, into, on_progress, on_line
            ),
        )
