"""Text that is not ours: an exception of the user's code in one line, and text without control codes."""

import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LONGEST = 600
"""Most characters of a message that are shown."""

_SEQUENCE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, erase
    "|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"  # OSC and other strings: titles
    "|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OURS = Path(__file__).parents[1]
VOWELS = tuple("aeiouAEIOU")
_INSTALLED = ("site-packages", "dist-packages")


def printable(text: str) -> str:
    """The text without control sequences and control characters, 7-bit and 8-bit; line feeds and tabs stay.

    A terminal obeys these codes: they can set its title, ring its bell, or hide what it shows.
    """
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


def raised(what: str, error: BaseException) -> str:
    """One line: what raised the exception, its type and message, and the file and line of the user's code.

    Args:
        what: the code that was called, as the user named it.
        error: the exception.
    """
    try:
        message = str(error)
    except Exception:  # an own exception class can have a broken __str__
        message = ""
    message = " ".join(printable(message.replace("\r", " ")).split())
    if len(message) > LONGEST:
        message = message[:LONGEST] + "…"
    place = user_place(error)
    return f"{what} raised {type(error).__name__}" + (f": {message}" if message else "") + (place and f" ({place})")


def with_article(noun: str) -> str:
    """The noun with its article: a float, an int."""
    return f"{'an' if noun.startswith(VOWELS) else 'a'} {noun}"


def user_place(error: BaseException) -> str:
    """``FILE:LINE`` of the innermost call in the user's own files, or an empty text if none of them took part."""
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        return f"{error.filename}:{error.lineno}"
    return next((f"{file}:{line}" for file, line in reversed(list(_frames(error))) if is_users(file)), "")


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame.f_code.co_filename, step.tb_lineno
        step = step.tb_next


def is_users(file: str) -> bool:
    """Whether a file is neither Python's, nor of an installed package, nor ours."""
    path = Path(file)
    if file.startswith("<") or any(part in _INSTALLED for part in path.parts):
        return False
    ours = any(path.is_relative_to(_OURS / package) for package in ("trainables", "tuner", "cluster"))
    python = path.is_relative_to(sysconfig.get_path("stdlib")) or path.is_relative_to(Path(sys.prefix) / "lib")
    return not ours and not python
