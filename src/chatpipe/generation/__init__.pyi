from .ask import Ask as Ask
from .batch import Completion as Completion
from .batch import complete as complete
from .chat import ChatSession as ChatSession
