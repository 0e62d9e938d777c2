"""The `chatpipe` command; `python -m chatpipe` is the same."""

from __future__ import annotations

from chatpipe.utils.import_path import leave_current_directory


def main() -> None:
    """Run the command line, none of whose modules comes from the current directory."""
    leave_current_directory()
    from chatpipe.cli import app  # not before: flows and tasks are looked for then

    app.main()


if __name__ == "__main__":
    main()
