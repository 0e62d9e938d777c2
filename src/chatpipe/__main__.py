"""The `chatpipe` command; `python -m chatpipe` is the same."""

from __future__ import annotations

import importlib

from chatpipe.import_path import leave_current_directory


def main() -> None:
    """Run the command line, none of whose modules comes from the current directory."""
    leave_current_directory()
    # By its name: the library imports nothing of what is built on it.
    importlib.import_module("flows.cli").main()


if __name__ == "__main__":
    main()
