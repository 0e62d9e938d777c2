from .deployments_file import DeploymentFile as DeploymentFile
from .deployments_file import load_deployments as load_deployments
from .local import down as down
from .local import up as up
