from .environment import prepare as prepare
from .failures import Failure as Failure
from .launcher import build_together as build_together
from .progress import Progress as Progress
from .progress import Reporter as Reporter
from .worker import SharedWorker as SharedWorker
from .worker import WorkerProcess as WorkerProcess
