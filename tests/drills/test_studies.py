"""A whole study, disturbed: killed at random moments, run twice at once, with secrets around."""

from html.parser import HTMLParser

import pytest

from tests.drills.kills import differences, disturbed, undisturbed
from tests.drills.place import STUDY, Place, write_study
from tests.drills.together import run_together

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.usefixtures("prefect")]

PASSWORD = "planted-password-5150"
SECRETS = {"HF_TOKEN": "hf_planted0123456789", "WANDB_API_KEY": "planted-wandb-key-42"}
STORE_WITH_PASSWORD = {"CHATPIPE_SHARED_STORE": f"s3://someone:{PASSWORD}@bucket/folder"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drills")


@pytest.fixture(scope="module")
def deployments(folder):
    return write_study(folder)


@pytest.fixture(scope="module")
def first(folder, deployments):
    """An undisturbed run with a Prefect server of its own, and secrets in its environment."""
    return Place(folder / "undisturbed", deployments, extra=SECRETS)


@pytest.fixture(scope="module")
def expected(first):
    return undisturbed(first)


def test_an_undisturbed_run_leaves_nothing_behind(first, expected):
    assert len(expected["artifacts"]) > 15
    assert first.left_behind() == []


def test_secrets_of_the_environment_are_written_nowhere(first, expected, deployments, prefect):
    failing = Place(first.home, deployments, prefect, SECRETS)
    refused = Place(first.home, deployments, extra={**SECRETS, **STORE_WITH_PASSWORD})
    said = ""
    for place, *command in (
        (failing, "run", "one", "--set", "training.max_length=16"),
        (refused, "compare", STUDY),
    ):
        done = place.run(*command)
        assert done.returncode == 2, done.stdout + done.stderr
        said += done.stdout + done.stderr
    assert "training.max_length" in said and "Traceback" not in said
    for secret in (*SECRETS.values(), PASSWORD):
        assert secret not in said
        assert first.files_with(secret) == []


def test_whatever_a_user_names_is_shown_as_text_in_the_report(first, expected):
    pages = first.home / "reports" / STUDY
    tags: set[str] = set()
    page = HTMLParser()
    page.handle_starttag = lambda tag, attributes: tags.add(tag)  # type: ignore[method-assign]
    html = (pages / "report.html").read_text("utf-8")
    page.feed(html)
    assert "svg" in tags and not tags & {"hostile", "script", "iframe", "object", "embed"}
    assert "<hostile" not in html + (pages / "report.md").read_text("utf-8")
    assert "&lt;hostile" in html and "{{ 7 * 7 }}" in html


@pytest.mark.parametrize("seed", [1])
def test_a_study_that_is_killed_at_random_moments_gives_the_same_bytes(
    folder, deployments, prefect, expected, seed
):
    """`python -m tests.drills.kills --rounds 100` kills more often."""
    place = Place(folder / f"killed-{seed}", deployments, prefect, SECRETS)
    assert disturbed(place, seed, kills=2).total() > 0
    assert not any(place.files_with(secret) for secret in SECRETS.values())
    assert place.left_behind() == []
    assert differences(expected, place.outcome()) == []


def test_two_runs_at_once_of_which_one_is_killed_give_one_artifact_each(
    folder, deployments, prefect, expected
):
    place = Place(folder / "together", deployments, prefect)
    assert run_together(place, 2) == [0], place.log()[-3000:]
    assert place.left_behind() == []
    assert differences(expected, place.outcome()) == []
