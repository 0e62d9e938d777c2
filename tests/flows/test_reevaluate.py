"""Re-evaluation with real Prefect, real NF4 and a tiny model: what is noticed, at what cost."""

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from chatpipe.errors import ArtifactError, ConfigError, GateError
from chatpipe.generation.ask import Ask
from chatpipe.reevaluation import history
from chatpipe.store.paths import home
from chatpipe.store.store import store
from chatpipe.study import lookup
from chatpipe.study.loading import load_variant
from tests.support.commands import chatpipe, invoke
from tests.support.rows import alpaca_rows, dialogue_rows, write_jsonl
from tests.support.variants import ALPACA, DIALOGUES, small_variant, write_settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect", "steps_in_this_process")]
WORSE = "training.learning_rate=1.0e-6"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir):
    path = tmp_path_factory.mktemp("reevaluate")
    write_jsonl(path / "a.jsonl", alpaca_rows(24))
    write_jsonl(path / "d.jsonl", dialogue_rows(24))
    datasets = ({**ALPACA, "name": "re-a"}, {**DIALOGUES, "name": "re-d"})
    training = {"epochs": 4, "learning_rate": 0.02}
    settings = small_variant(tiny_model_dir, *datasets, name="checked", training=training)
    write_settings(path / "variant.yaml", settings)
    return path


def variant(folder, *overrides):
    """With those overrides as if they stood in its file: under its own name."""
    made = load_variant(str(folder / "variant.yaml"), overrides)
    return made.model_copy(update={"name": "checked"})


def reevaluate(*variants, tolerance=0.02):
    """(the state's name, the error that a caller would get, the kinds of what was built)."""
    from flows.reevaluate import reevaluate as story
    from tasks.caching import BUILT

    BUILT.clear()
    state = story(list(variants), tolerance, return_state=True)
    error = state.result(raise_on_failure=False)
    return state, error, [name.partition("/")[0] for name in BUILT]


def trained(made):
    from flows.compare import compare

    compare("trained", [made])
    return made


@pytest.fixture(scope="module")
def first(folder):
    made = trained(variant(folder))
    return made, reevaluate(made)


def entries_since(count):
    return history.read("checked")[count:]


def events(name):
    """Events of that name in Prefect, waited for: they are stored by a service in passing."""
    from prefect.client.orchestration import get_client

    wanted = {"filter": {"event": {"name": [name]}}}
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            found = client.request("POST", "/events/filter", json=wanted).json()["events"]
            if found:
                return found
            time.sleep(0.5)
    return []


def test_the_first_check_uses_the_scores_of_the_run_and_is_accepted(first):
    _, (state, error, built) = first
    assert (state.name, error, built) == ("Completed", None, [])
    entries = history.read("checked")
    assert {e.heldout for e in entries} == {"re-a", "re-d", "re-a + re-d"}
    assert {e.metric for e in entries} == {"perplexity", "perplexity_paper"}
    assert [e.record for e in entries] == ["evaluated"] * 6 + ["accepted"] * 6
    assert all(e.low < e.value < e.high and e.tokens > e.rows > 0 == e.seen for e in entries)


def test_an_unchanged_adapter_on_unchanged_rows_costs_seconds_and_is_recorded(first):
    made, _ = first
    before = history.read("checked")
    started = time.process_time()
    state, _, built = reevaluate(made)
    assert time.process_time() - started < 10
    assert state.name == "Completed" and built == []
    added = entries_since(len(before))
    assert [e.record for e in added] == ["evaluated"] * 6
    assert {e.scored for e in added} == {"unchanged"}
    assert [e.value for e in added] == [e.value for e in before[:6]]
    page = (home() / "reports" / "reevaluation" / "index.html").read_text("utf-8")
    assert "checked: no figure is worse than accepted." in page and page.count("<svg") == 3


def test_a_machine_that_trained_nothing_checks_what_the_shared_store_holds(
    first, tmp_path, monkeypatch
):
    made, _ = first
    monkeypatch.setenv("CHATPIPE_SHARED_STORE", str(tmp_path / "bucket"))
    trained(made)  # all there already: it is shared
    monkeypatch.setenv("CHATPIPE_HOME", str(tmp_path / "another machine"))
    adapter = lookup.find_adapter(made)
    assert not adapter.path.exists()  # its manifest was read; nothing was fetched
    state, _, _ = reevaluate(made)
    assert state.name == "Completed"
    assert store().find("adapter", adapter.key) == adapter
    assert {entry.scored for entry in entries_since(0)} == {"unchanged"}


def test_an_adapter_is_scored_on_rows_that_came_after_it(first, folder):
    made, _ = first
    before = history.read("checked")
    path = folder / "a.jsonl"
    text = path.read_text("utf-8")
    write_jsonl(path, alpaca_rows(36))
    try:
        state, error, built = reevaluate(made, tolerance=10.0)
    finally:
        path.write_text(text, "utf-8")
    assert state.name == "Completed", error
    assert "adapter" not in built and built.count("scores") == 1
    added = entries_since(len(before))
    assert {e.model_digest for e in added} == {before[0].model_digest}
    grown = {e.heldout: e.scored for e in added if e.heldout_digest != before[0].heldout_digest}
    assert grown == {"re-a": "built", "re-a + re-d": "built", "re-d": "unchanged"}
    assert added[0].rows > before[0].rows


def test_adapters_of_one_base_are_asked_together(first, folder):
    made, _ = first
    more = ("training.seed=5", "generation.max_new_tokens=5")
    another = variant(folder, *more).model_copy(update={"name": "another"})
    trained(another)
    longer = made.model_copy(update={"generation": another.generation})
    store().forget(store().root / asked_of(another))
    state, error, built = reevaluate(longer, another)
    assert state.name == "Completed", error
    assert built == ["generations"] * 2
    newest = sorted(store().manifests("generations"), key=lambda manifest: manifest["created"])[-2:]
    assert [manifest["details"]["models_asked_together"] for manifest in newest] == [2, 2]


def asked_of(made):
    """Where in the store the answers of that variant's adapter are."""
    request = Ask.of(made, lookup.find_model(made))
    return f"{request.kind}/{request.key()}"


def test_a_worse_adapter_under_the_same_name_fails_the_run_with_a_state_and_an_event(first, folder):
    worse = trained(variant(folder, WORSE))
    state, error, _ = reevaluate(worse)
    assert state.is_failed() and state.name == "Regressed"
    assert isinstance(error, GateError)
    sentence = str(error).splitlines()[0]
    assert "checked on re-a: perplexity" in sentence and "chatpipe accept checked" in sentence
    [event] = events("chatpipe.gate.failed")
    assert event["resource"]["prefect.resource.id"] == "chatpipe.variant.checked"
    assert sentence in event["payload"]["message"]
    compared = event["payload"]["figures"][0]
    assert compared["now"]["value"] > compared["accepted"]["value"]
    assert any("flow-run" in r["prefect.resource.id"] for r in event["related"])
    page = (home() / "reports" / "reevaluation" / "index.html").read_text("utf-8")
    assert "another adapter" in page and "worse than the accepted" in page


@pytest.fixture(scope="module")
def worse_than_accepted(first, folder):
    """A variant under whose name a worse adapter was trained after a better one was accepted."""
    made, _ = first
    assert reevaluate(made.model_copy(update={"name": "decided"}))[0].name == "Completed"
    return trained(variant(folder, WORSE)).model_copy(update={"name": "decided"})


@pytest.fixture
def run_of_deployment(prefect):
    """Make a run of a deployment of the flow, whose every part `run_to_its_end` then runs here."""
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows.reevaluate import reevaluate as story

    module = EntrypointType.MODULE_PATH
    deployment = RunnerDeployment.from_flow(story, name="nightly", entrypoint_type=module).apply()

    def run(checked, within_h):
        parameters = {"variants": [checked.model_dump(mode="json")], "decision_within_h": within_h}
        with get_client(sync_client=True) as client:
            return client.create_flow_run_from_deployment(deployment, parameters=parameters).id

    return run


def run_to_its_end(run_id):
    """Run what a worker's process would run; the state that it leaves on the server."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow

    from flows.reevaluate import reevaluate as story

    with get_client(sync_client=True) as client:
        with suppress(Pause):  # ends the process
            run_flow(story, flow_run=client.read_flow_run(run_id), return_type="state")
        return client.read_flow_run(run_id).state


def form(run_id, part):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        keyset = client.read_flow_run(run_id).state.state_details.run_input_keyset
        return json.loads(client.read_flow_run_input(run_id, keyset[part]))


def test_a_person_accepts_figures_or_refuses_them(worse_than_accepted, run_of_deployment):
    from prefect.flow_runs import resume_flow_run

    for answer, name in (({}, "Regressed"), ({"decision": "accept", "reason": "new rows"}, None)):
        run_id = run_of_deployment(worse_than_accepted, within_h=2)
        state = run_to_its_end(run_id)
        assert state.is_paused() and state.name == "Suspended"
        shown = form(run_id, "description")
        assert "decided on re-a: perplexity" in shown and "another adapter" in shown
        assert form(run_id, "schema")["properties"]["decision"]["enum"] == ["refuse", "accept"]
        before = history.read("decided")
        resume_flow_run(run_id, run_input=answer)
        state = run_to_its_end(run_id)
        assert state.name == (name or "Completed"), state.message
        added = history.read("decided")[len(before) :]
        if name:
            assert state.is_failed() and "Refused by a person." in state.message and added == []
    assert state.message == "decided: figures accepted by a person: new rows"
    seen = history.newest(before)
    assert [(e.record, e.figure, e.value) for e in added] == [
        ("accepted", e.figure, e.value) for e in seen
    ]
    assert reevaluate(worse_than_accepted)[0].name == "Completed"


def test_a_run_that_nobody_decides_on_fails_and_one_that_must_not_wait_fails_at_once(
    worse_than_accepted, run_of_deployment
):
    from prefect.client.orchestration import get_client
    from prefect.exceptions import FlowPauseTimeout
    from prefect.flow_runs import resume_flow_run

    from flows.reevaluate import reevaluate as story

    entries = history.newest(history.read("decided"))
    better = {"value": 1.5, "low": 1.4, "high": 1.6}
    history.append([e.model_copy(update=better) for e in history.accepted(entries)])
    assert run_to_its_end(run_of_deployment(worse_than_accepted, within_h=0)).name == "Regressed"
    run_id = run_of_deployment(worse_than_accepted, within_h=0.0001)
    assert run_to_its_end(run_id).name == "Suspended"
    time.sleep(1.5)
    with pytest.raises(FlowPauseTimeout):  # a server's service fails such runs by itself, too
        resume_flow_run(run_id, run_input={"decision": "accept"})
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run_id).state
    assert state.is_failed() and "never resumed" in state.message
    no_deployment = story([worse_than_accepted], decision_within_h=1, return_state=True)
    assert no_deployment.name == "Regressed"


def test_a_damaged_adapter_is_noticed_by_its_digest_and_the_others_are_still_checked(first, folder):
    made, _ = first
    weights = lookup.find_adapter(made).path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    other = variant(folder, WORSE).model_copy(update={"name": "other"})
    before = len(history.read())
    try:
        state, error, _ = reevaluate(made, other)
    finally:
        weights.write_bytes(whole)
    assert state.is_failed() and state.name == "Damaged"
    assert isinstance(error, ArtifactError)
    assert "checked: " in str(error) and "adapter_model.safetensors" in str(error)
    assert {e.variant for e in history.read()[before:]} == {"other"}
    [event] = events("chatpipe.adapter.damaged")
    assert event["resource"]["prefect.resource.name"] == "checked"


def test_figures_under_another_length_are_not_compared_in_silence(first, folder):
    made = variant(folder, "evaluation.max_length=200")
    state, error, _ = reevaluate(made, tolerance=1e9)
    assert error is None and state.is_completed()
    assert "evaluation.max_length 200, 2048 before" in state.message
    page = (home() / "reports" / "reevaluation" / "index.html").read_text("utf-8")
    assert "evaluation.max_length 200, 2048 before" in page


def test_two_variants_of_one_name_are_refused(folder):
    _, error, built = reevaluate(variant(folder), variant(folder, WORSE))
    assert isinstance(error, ConfigError) and "checked stands there 2 times" in str(error)
    assert built == []


@pytest.mark.usefixtures("first")
def test_one_bad_thing_keeps_no_other_variant_from_its_check(folder, tmp_path, monkeypatch, caplog):
    """A YAML whose rows are gone, one whose rows have become bad, and a damaged manifest."""
    (tmp_path / "variants").mkdir()
    raw = yaml.safe_load((folder / "variant.yaml").read_text())
    for dataset in raw["datasets"]:
        dataset["path"] = str(folder / dataset["path"])
    gone = {**raw, "name": "gone", "datasets": [{"name": "x", "path": "nowhere.jsonl"}]}
    (tmp_path / "rows").mkdir()
    for letter in "ad":
        (tmp_path / f"rows/{letter}.jsonl").write_text((folder / f"{letter}.jsonl").read_text())
    sets = [{**d, "path": str(tmp_path / "rows" / Path(d["path"]).name)} for d in raw["datasets"]]
    bad = {**raw, "name": "bad", "datasets": sets}
    for one in (bad, raw, gone):
        (tmp_path / f"variants/{one['name']}.yaml").write_text(yaml.safe_dump(one))
    (tmp_path / "rows/a.jsonl").write_text("no JSON\n")
    broken = store().path("adapter", "0" * 40) / "artifact.json"
    broken.parent.mkdir()
    broken.write_text("{")
    monkeypatch.setenv("CHATPIPE_DEPLOYMENTS", str(tmp_path))
    before = len(history.read())
    try:
        from flows.reevaluate import reevaluate as story

        state = story(return_state=True)
    finally:
        shutil.rmtree(broken.parent)
    assert state.is_failed() and state.name == "Unchecked"
    said = str(state.result(raise_on_failure=False)).splitlines()
    rows = f"bad: could not be checked: data set re-a ({tmp_path / 'rows/a.jsonl'}): none of 1 row "
    assert any(line.startswith(rows) for line in said), said
    assert any("gone: could not be checked: " in s and "nowhere.jsonl" in s for s in said), said
    assert {e.variant for e in history.read()[before:]} == {"checked"}
    assert any(str(broken) in message for message in caplog.messages)


def test_what_was_never_trained_is_refused_by_name(folder):
    with pytest.raises(ArtifactError, match="chatpipe run checked"):
        from flows.reevaluate import reevaluate as story

        story([variant(folder, "lora.rank=3")])


def test_the_commands_check_accept_and_tell(first, folder, prefect):
    """The accepted figures are made better than any adapter's: the next check is a regression."""
    name = str(folder / "variant.yaml")
    entries = history.newest(history.read("checked"))
    better = {"value": 1.5, "low": 1.4, "high": 1.6}
    history.append([e.model_copy(update=better) for e in history.accepted(entries)])
    failed = chatpipe("reevaluate", name, "--json", PREFECT_API_URL=prefect)
    assert failed.returncode == 1
    assert "is that right" not in failed.stdout and len(json.loads(failed.stdout)) == 6
    assert "chatpipe accept checked" in failed.stderr and "Traceback" not in failed.stderr
    accepted = chatpipe("accept", "checked")
    assert accepted.returncode == 0 and accepted.stdout.count("accepted: ") == 6
    passed = invoke("reevaluate", name)
    assert passed.exit_code == 0 and "trend: " in passed.stdout, passed.stderr
    told = json.loads(chatpipe("history", "checked", "--json").stdout)
    assert told[-1]["record"] == "evaluated" and told[-7]["record"] == "accepted"
    assert store().root.exists()
