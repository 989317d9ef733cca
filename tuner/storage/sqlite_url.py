"""The URL of an SQLite file, for SQLAlchemy, Optuna and MLflow."""

from pathlib import Path


def sqlite_url(file: Path) -> str:
    """The URL of an absolute path.

    A ``?`` in a path would begin the URL's options, and a ``%`` an escape, so both are escaped. Such a URL names its
    driver too: MLflow creates the folder of a plain ``sqlite:///`` URL without removing its escapes.
    """
    escaped = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{file}" if escaped == str(file) else f"sqlite+pysqlite:///{escaped}"
