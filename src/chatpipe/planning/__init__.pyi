from .checks import check_variant as check_variant
from .planner import MakePlan as MakePlan
from .planner import Plan as Plan
from .planner import plan as plan
from .row_checks import check_rows as check_rows
from .steps import DryRun as DryRun
from .summary import cost_rows as cost_rows
from .summary import summary as summary
