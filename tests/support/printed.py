"""What a module prints that has to run in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def printed_json(module: str, *arguments: object, **environment: str) -> Any:
    """Run the module with these variables besides the environment; return its last line, parsed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    variables = {**os.environ, **environment}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])
