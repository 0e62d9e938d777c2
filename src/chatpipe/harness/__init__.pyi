from .fetch_task import FetchTask as FetchTask
from .run_task import RunTask as RunTask
