from .artifact import Artifact as Artifact
from .artifact import Request as Request
from .paths import home as home
from .remote import SharedStore as SharedStore
from .remote import shared_store as shared_store
from .store import Store as Store
