"""Check Prefect's database before a server starts, which would fail only after minutes."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from chatpipe.errors import DiskError, ServiceError
from chatpipe.server.prefect_disk import check_room


def check_database() -> None:
    """ServiceError where Prefect's SQLite database is damaged, or a newer Prefect wrote it."""
    path = database_file()
    if path is None or not path.is_file():
        return
    try:
        revisions = _revisions(path)
    except sqlite3.Error as error:
        if "locked" in str(error):  # another process uses it, so it is usable
            return
        raise ServiceError(
            f"{path}: Prefect's database cannot be read ({error}); move it away, and a new one is "
            "made."
        ) from None
    unknown = [revision for revision in revisions if not _is_known(revision)]
    if unknown:
        raise ServiceError(
            f"{path}: Prefect's database was made by a newer Prefect (revision {unknown[0]}); "
            "install that version, or set PREFECT_HOME to another directory."
        )


def database_file() -> Path | None:
    """Return the path of Prefect's SQLite database; None where another database is set."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME

    path: Path = PREFECT_HOME.value() / "prefect.db"
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    return None if url and str(path) not in str(url) else path


def _revisions(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        if ("alembic_version",) not in tables.fetchall():
            return []
        rows = connection.execute("select version_num from alembic_version").fetchall()
    if not all(isinstance(revision, str) for (revision,) in rows):
        raise sqlite3.DatabaseError("its version is not text")
    return [revision for (revision,) in rows]


def _is_known(revision: str) -> bool:
    spec = find_spec("prefect")
    assert spec is not None and spec.origin is not None
    migrations = Path(spec.origin).parent / "server/database/_migrations/versions/sqlite"
    # Where a version of Prefect has its migrations elsewhere, nothing can be checked.
    return not migrations.is_dir() or any(migrations.glob(f"*_{revision}_*.py"))


if __name__ == "__main__":  # prints the file if it is missing
    try:
        check_room()
        check_database()
    except (DiskError, ServiceError) as error:
        sys.exit(str(error))
    file = database_file()
    if file and not file.exists():
        print(file)
