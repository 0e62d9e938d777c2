"""The example automation, read by Prefect's own models against the events that are emitted."""

from pathlib import Path
from uuid import UUID

import pytest
import yaml

BLOCK = UUID("00000000-0000-0000-0000-00000000000b")
FILE = Path(__file__).parents[2] / "deployments/automations/examples/regressions.yaml"


@pytest.fixture(scope="module")
def automation():
    from chatpipe.server.automations_file import load_automation

    return load_automation(FILE, lambda name: {"slack-webhook/chatpipe": BLOCK}[name])


def test_it_waits_for_the_events_that_a_reevaluation_emits(automation):
    from flows.reevaluate import DAMAGED, GATE_FAILED, UNCHECKED

    assert automation.enabled
    assert set(automation.trigger.expect) == {GATE_FAILED, DAMAGED, UNCHECKED}
    assert automation.trigger.posture.value == "Reactive" and automation.trigger.threshold == 1
    [action] = automation.actions
    assert action.block_document_id == BLOCK


def test_it_matches_every_variant_and_nothing_else(automation):
    from prefect.events.schemas.events import Resource

    def matches(name):
        return automation.trigger.match.matches(Resource({"prefect.resource.id": name}))

    assert matches("chatpipe.variant.smol-merge")
    assert not matches("prefect.flow-run.smol-merge")


def test_its_text_has_what_is_wrong_and_where():
    """Rendered by the engine that the server renders notifications with."""
    from prefect.server.events.schemas.events import ReceivedEvent, Resource
    from prefect.server.utilities.user_templates import render_user_template_sync
    from prefect.types._datetime import now

    raw = yaml.safe_load(FILE.read_text("utf-8"))
    [action] = raw["actions"]
    resource = {"prefect.resource.id": "chatpipe.variant.v", "prefect.resource.name": "v"}
    event = ReceivedEvent(
        event="chatpipe.gate.failed",
        id="00000000-0000-0000-0000-000000000001",
        occurred=now("UTC"),
        resource=Resource(resource),
        payload={"message": "v on a: worse."},
    )
    assert render_user_template_sync(action["body"], {"event": event}) == "v on a: worse."
    assert render_user_template_sync(action["subject"], {"event": event}) == "chatpipe: v"


def test_the_order_of_events_makes_no_other_automation(automation):
    """Equal sets that were filled in another order may list their items in another order."""
    from prefect.events.schemas.automations import Automation, AutomationCore

    from chatpipe.server.deploy import is_deployed

    fields = automation.model_dump(mode="json")
    for number in range(50):
        events = [f"chatpipe.event-{number}-{part}" for part in range(8)]
        trigger = fields["trigger"] | {"expect": events}
        stored = fields | {"id": str(BLOCK), "trigger": trigger | {"expect": events[::-1]}}
        desired = AutomationCore.model_validate(fields | {"trigger": trigger})
        assert is_deployed(Automation.model_validate(stored), desired)
    stored["trigger"]["expect"] = events[1:]
    assert not is_deployed(Automation.model_validate(stored), desired)
