"""The files that ``tuner init`` writes: a starter spec and, for own code, the Python module that it names."""

from pathlib import Path

from tuner.spec.search_spec import starter
from tuner.storage.atomic_files import check_new, write_new

KINDS = ("search", "optimizer", "trainable", "model")
"""What a starter is about: a search with all options, or an own optimizer, trainable or model."""
_FOLDER = Path(__file__).with_name("starters")


def write_starter(file: Path, kind: str = "search", force: bool = False) -> list[Path]:
    """Write a starter spec and, beside it, the Python file that it names.

    Args:
        file: the spec to write.
        kind: one of ``KINDS``.
        force: overwrite existing files.

    Returns:
        The files.

    Raises:
        SpecError: one of the files exists, and nothing was written.
        ServiceError: a file cannot be written.
    """
    texts = {file: starter()}
    if kind != "search":
        texts = {file: _read(f"{kind}.yaml"), file.with_name(f"my_{kind}.py"): _read(f"{kind}.txt")}
    for path in texts:
        check_new(path, force)
    for path, text in texts.items():
        write_new(path, text, force)
    return list(texts)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
