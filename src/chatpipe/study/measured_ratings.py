"""The ratings of a study's models, for its report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chatpipe.rating.pairs import Model
from chatpipe.rating.results import rated_together, study_ratings
from chatpipe.report import Answer, Ratings
from chatpipe.report.build import panel_answers
from chatpipe.report.configurations import configurations
from chatpipe.report.measured import Measured
from chatpipe.store.store import store


def ratings_of(study: str, results: Sequence[Measured]) -> Ratings | None:
    """Return the figures of the study's ratings of these models, as they are and answer now; None
    where nothing was rated."""
    names = {
        name: [model.name for model in models] for name, models in configurations(results).items()
    }
    generation = {model.name: model.variant.generation for model in results}
    return study_ratings(
        study, map(_rated, results), _stored_answers(results), rated_together(names, generation)
    )


def _rated(model: Measured) -> Model:
    """Return the model as ratings name it."""
    return Model(model.name, model.adapter.digest if model.adapter else model.base_model)


def _stored_answers(results: Iterable[Measured]) -> Iterator[Answer]:
    """Yield the models' answers to the panel, as far as they are stored."""
    for model in results:
        artifacts = [model.generations, *model.row_answers.values()]
        if not any(artifact.is_pending for artifact in artifacts):
            for artifact in artifacts:
                store().fetch(artifact)
            yield from panel_answers(model)
