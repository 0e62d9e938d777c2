"""The report's data model, with units; all renderings are made from it."""

from chatpipe.report.schema.accounts import (
    Contamination,
    RowAccountRow,
    SharedWords,
    TurnAccountRow,
)
from chatpipe.report.schema.answers import Answer, Turn
from chatpipe.report.schema.base import FEW_ROWS, NOT_KNOWN, JsonScalar, Metric
from chatpipe.report.schema.comparisons import (
    CostFront,
    LearningCurve,
    RankedVariant,
    Selection,
    Verdict,
)
from chatpipe.report.schema.models import LossPoint, Model, PaperRow, TrainedElsewhere
from chatpipe.report.schema.ratings import (
    JudgesRatings,
    PeoplesRatings,
    PositionBias,
    RatedConfiguration,
    RatedModel,
    RaterAgreement,
    RaterCount,
    Ratings,
)
from chatpipe.report.schema.reading import json_schema, read_report
from chatpipe.report.schema.report import Report
from chatpipe.report.schema.scores import (
    BitsPerByte,
    Difference,
    HeldoutSet,
    ScoreCell,
    TemplateGain,
)
from chatpipe.report.schema.study import Configuration, Cost, Manifest, MissingCell
from chatpipe.report.schema.tasks import TaskScore

__all__ = [
    "FEW_ROWS",
    "NOT_KNOWN",
    "Answer",
    "BitsPerByte",
    "Configuration",
    "Contamination",
    "Cost",
    "CostFront",
    "Difference",
    "HeldoutSet",
    "JsonScalar",
    "JudgesRatings",
    "LearningCurve",
    "LossPoint",
    "Manifest",
    "Metric",
    "MissingCell",
    "Model",
    "PaperRow",
    "PeoplesRatings",
    "PositionBias",
    "RankedVariant",
    "RatedConfiguration",
    "RatedModel",
    "RaterAgreement",
    "RaterCount",
    "Ratings",
    "Report",
    "RowAccountRow",
    "ScoreCell",
    "Selection",
    "SharedWords",
    "TaskScore",
    "TemplateGain",
    "TrainedElsewhere",
    "Turn",
    "TurnAccountRow",
    "Verdict",
    "json_schema",
    "read_report",
]
