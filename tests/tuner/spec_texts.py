"""A small spec, and edits of it for tests."""

from tuner.spec.search_spec import SearchSpec, from_document
from tuner.spec.strict_yaml import read_text

SPEC = """\
name: job
data:
  name: digits
model:
  name: elu_net
baseline: adam_l2
arms:
  - adam_l2
  - variant: noam
budget:
  trials: 4
  epochs: 8
"""


def spec_of(*edits: tuple[str, str], text: str = SPEC) -> SearchSpec:
    """The small spec, with each old text replaced by the new one; about settings if it does not say what it claims."""
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    document = read_text(text, "job.yaml")
    if "searches" not in document.value:
        document.value.setdefault("claim", "setting")
    return from_document(document)


END = "  epochs: 8\n"
NOAM = "  - variant: noam\n"


def more(text: str) -> tuple[str, str]:
    """An edit that appends ``text`` to the spec. The first added line is line 13."""
    return END, END + text


def noam(text: str) -> tuple[str, str]:
    """An edit that adds keys to the second arm. The first added line is line 10."""
    return NOAM, NOAM + "".join(f"    {line}\n" for line in text.splitlines())


def search(knob: str, range_: str) -> tuple[str, str]:
    """An edit that adds a top-level range. The knob is on line 14."""
    return more(f"parameters:\n  {knob}: {range_}\n")
