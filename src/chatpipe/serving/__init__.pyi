from .app import create_app as create_app
from .engine import Engine as Engine
from .served_models import ServedModel as ServedModel
