"""Thousands of broken specs, and the rules for the few that are accepted.

A seed always gives the same spec, unless ``CORPUS`` changes. To repeat a failed case, call ``mutated(seed)``.
"""

import copy
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.tuner.spec_texts import SPEC
from trainables.hyper import KNOBS
from trainables.schedules import parse_restarts
from trainables.space import Choice, Domain
from trainables.variants import VARIANTS
from tuner.errors import SpecError
from tuner.spec.checks import Checked
from tuner.spec.search_spec import from_dict, starter, to_dict
from tuner.spec.strict_yaml import read_text

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Raw(str):
    """Text that is written into a spec without quotes."""


WORDS = r"""
0 -1 1 2 3 +5 -0.0 0.5 .5 1. 1e-4 1e3 1e400 -1e400 1e-400 5e-324 1e308 1e9 .inf -.Inf .nan NaN Infinity 2147483648
99999999999999999999 999999999999999999999999 0x7fffffffffffffff 0o777 017 1_000 0b11 1e 12e4.5 true false yes no on
null ~ 2024-01-01 12:30 adam_l2 adamw noam adamw_restarts adam_beta2 tpe cmaes asha none digits cifar10 parquet
image_folder elu_net val/loss minimize minimum flip_crop log linear one-minus-log 5x2 10x1 4x1 0x0 1x1
99999999999x9999999 m:f math:pi os:getcwd no.such:thing ..:x a:b:c ../x ../../etc/passwd /etc/passwd / . .. ~root -rf
--help $(id) ${HOME} {{7*7}} %s {0} \x00 lr l2 beta2 warmup restarts eps schedule halving cosine sqlite:///x.db
postgresql://u@h/db sqlite:// http:// x:// :// &a *a !!str !!python/name:os.system @ ` % | >
"""
ODD = [
    *map(Raw, WORDS.split()),
    Raw(""), Raw("[]"), Raw("{}"), Raw("[[]]"), Raw("[1, 1]"), Raw("[0.1, 0.2]"), Raw("[adamw, noam]"),
    Raw("{min: 1, max: 2}"), Raw("{min: 2, max: 1}"), Raw("{min: 1, max: 1}"), Raw("{min: 0, max: 1, scale: log}"),
    Raw("{min: .nan, max: 1}"), Raw("{values: [1, 2]}"), Raw("{values: [1]}"), Raw("{name: x}"), Raw("{variant: noam}"),
    Raw("{min: 0.1, max: 0.5, step: 0.1}"), Raw("{values: [0.8, 0.9], when: {schedule: noam}}"),
    Raw("{schedule: [noam, cosine]}"), Raw("[{lr: 1e-3}]"), Raw("[{}]"), Raw("[{schedule: noam}, {lr: 0.001}]"),
    Raw("{min: 2, max: 9, step: 2}"), Raw("{min: 1, max: 9, step: 2, scale: log}"), Raw("[[[[[[[[[[1]]]]]]]]]]"),
    Raw("!!python/object/apply:os.system [id]"), Raw("{<<: {a: 1}}"), Raw("{1: 2}"), Raw("{? [a] : b}"),
    "", " ", "x", "null", "5", "a\nb", "a\tb", "é", "\u202e\u0645", "\U0001f600", "\ufeffx", "\u2028", "\x00", "\x07",
    "\x1b[31mred", "\x7f", "\x85", "a" * 65, "a" * 300, "a" * 5000, "/" + "a" * 300, "x'; drop table studies; --",
    f"postgresql://u:{SECRET}@h/db", f"https://h/?token={SECRET}", f"host=h password={SECRET}",
]  # fmt: skip
"""Values of wrong types, values at the limits, and values that have broken other readers."""

ODD_KEYS = ["", "x", "name", "seed", "data", "arms", "lr", "warmup", "restarts", "beta2", "min", "max", "values",
            "step", "scale", "when", "first", "warm_start", "schedule", "variant", "fixed", "parameters", "path",
            "size", "options", "sha256", "[key]", "a.b",
            "é\n", "<<", "null", "1", "password", "trials ", "Trials", "a" * 300, "\x1b[31m", "\u202e"]  # fmt: skip
PIECES = ["\t", "  ", " ", "\n", "\r", "\r\n", "[", "]", "{", "}", "- ", ": ", "? ", "&x ", "*x", "!x ", "'", '"', "#",
          "|\n", ">\n", "%YAML 1.1\n", "---\n", "...\n", ",", "\ufeff", "\x00", "\x85", "\u2028", "é", "\U0001f600",
          "[" * 3000, "{a: " * 3000, "- " * 3000, "a: &x [*x]\n", "\\", "@", "`", "!!python/object:x {}\n"]  # fmt: skip


ANY_KNOB = """\
name: any-knob
data: {name: digits}
model: {name: elu_net, width: 0.125}
baseline: adam_l2
claim: setting
arms:
  - adam_l2
  - variant: adam_l2
    name: schedules
    parameters:
      schedule: {values: [constant, noam, restarts]}
      warmup: {min: 10, max: 40, step: 10, when: {schedule: noam}}
      restarts: {values: [2x1, 4x1], when: {schedule: [restarts]}}
      beta1: {min: 0.5, max: 0.9, step: 0.1, when: {schedule: restarts, restarts: 2x1}}
      batch_size: {values: [50, 100]}
    first:
      - {schedule: noam, warmup: 20}
      - {schedule: restarts, beta1: 0.7}
    warm_start: any-knob-0123ab
budget: {trials: 4, epochs: 8}
"""
"""A valid spec with conditional knobs, steps of real numbers, first settings and a warm start."""


def corpus() -> list[str]:
    """Valid specs: those in ``searches``, the starter spec, the example in the README, and those of the tests."""
    readme = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    searches = [file.read_text() for file in sorted((ROOT / "searches").glob("*.yaml"))]
    every_key = re.sub(r"^(\s*)# (?=[a-z_]+: )(?!path: |sampler: |pass: )", r"\1", starter(), flags=re.MULTILINE)
    return [*searches, starter(), every_key, SPEC, ANY_KNOB, *(text for text in readme if "baseline:" in text)]


CORPUS = corpus()


def mutated(seed: int) -> bytes:
    """The spec for this seed: a spec of the corpus with one or more mistakes, or joined with another spec."""
    chance = random.Random(seed)
    text = chance.choice(CORPUS)
    if chance.random() < 0.6:
        value: Any = read_text(text, "spec").value
        for _ in range(chance.randint(1, 3)):
            value = _changed(value, chance)
        text = written(value)
    if chance.random() < 0.5:
        for _ in range(chance.choice((1, 1, 2))):
            text = chance.choice(TEXT_CHANGES)(text, chance)
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.15:
        data = chance.choice(BYTE_CHANGES)(data, chance)
    return data


def forged(values: dict[str, Any], seed: int) -> dict[str, Any]:
    """The values of an export with one to three mistakes."""
    chance = random.Random(seed)
    changed: Any = values
    for _ in range(chance.randint(1, 3)):
        changed = _changed(changed, chance, whole=0)
    return {key: _plain(value) for key, value in changed.items()}


def _plain(value: Any) -> Any:
    """Values that JSON can store. ``Raw`` text becomes its value in YAML if it has one, else plain text."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Raw):
        try:
            return read_text(f"x: {value}", "raw").value["x"]
        except SpecError:
            return str(value)
    return value


def written(value: Any) -> str:
    """The YAML of plain values and ``Raw`` text, with one line per top-level key."""
    if not isinstance(value, dict):
        return _flow(value) + "\n"
    return "".join(f"{_flow(key)}: {_flow(part)}\n" for key, part in value.items())


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not isinstance(value, Raw):
        plain = re.fullmatch(r"[a-z][a-z0-9_/]*", value) and value not in ("null", "true", "false")
        return value if plain else "'" + value.replace("'", "''") + "'"
    return str(value)


def _changed(value: Any, chance: random.Random, whole: float = 0.01) -> Any:
    """Delete, repeat, rename, add or replace one part of ``value``; with probability ``whole``, replace all of it."""
    if not isinstance(value, dict | list) or not value or chance.random() < whole:
        return copy.deepcopy(chance.choice(ODD))
    changed = copy.deepcopy(value)
    key: Any = chance.choice(list(changed)) if isinstance(changed, dict) else chance.randrange(len(changed))
    match chance.randrange(8):
        case 0:
            del changed[key]
        case 1 if isinstance(changed, dict):
            changed[chance.choice(ODD_KEYS)] = copy.deepcopy(chance.choice([*ODD, changed[key]]))
        case 2 if isinstance(changed, dict):
            changed[_misspelt(key, chance)] = changed.pop(key)
        case 3 if isinstance(changed, list):
            changed.insert(key, copy.deepcopy(changed[key]))
        case _:
            changed[key] = _changed(changed[key], chance, whole=0.1)
    return changed


def _misspelt(key: str, chance: random.Random) -> str:
    at = chance.randrange(len(key) + 1)
    return key[:at] + chance.choice(["", "x", "_", "E", " "]) + key[at + chance.choice((0, 1)) :]


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True) or [""]


def _without_line(text: str, chance: random.Random) -> str:
    lines = _lines(text)
    del lines[chance.randrange(len(lines))]
    return "".join(lines)


def _with_line_twice(text: str, chance: random.Random) -> str:
    lines = _lines(text)
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    return "".join(lines)


def _shifted(text: str, chance: random.Random) -> str:
    lines = _lines(text)
    at = chance.randrange(len(lines))
    lines[at] = chance.choice([" ", "  ", "\t", "    "]) + lines[at] if chance.random() < 0.6 else lines[at].lstrip()
    return "".join(lines)


def _with_piece(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(PIECES) + text[at + chance.choice((0, 0, 1, 5, 30)) :]


def _with_odd_value(text: str, chance: random.Random) -> str:
    places = [found.span(1) for found in re.finditer(r"[:\[,-] ([^\s,\]}]+)", text)]
    if not places:
        return text
    start, end = chance.choice(places)
    return text[:start] + _flow(chance.choice(ODD)) + text[end:]


def _spliced(text: str, chance: random.Random) -> str:
    mine, other = _lines(text), _lines(chance.choice(CORPUS))
    return "".join(mine[: chance.randrange(len(mine) + 1)] + other[chance.randrange(len(other)) :])


def _cut(text: str, chance: random.Random) -> str:
    return text[: chance.randrange(len(text) + 1)]


def _other_line_ends(text: str, chance: random.Random) -> str:
    return chance.choice(["", "\ufeff"]) + text.replace("\n", chance.choice(["\r\n", "\r", "\n\n"]))


TEXT_CHANGES: list[Callable[[str, random.Random], str]] = [
    _without_line, _with_line_twice, _shifted, _with_piece, _with_odd_value, _with_odd_value, _spliced, _cut,
    _other_line_ends,
]  # fmt: skip


def _flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data or b" ")
    for _ in range(chance.choice((1, 1, 3))):
        changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
    return bytes(changed)


def _torn(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _other_encoding(data: bytes, chance: random.Random) -> bytes:
    return data.decode(errors="replace").encode(chance.choice(["utf-16", "utf-32", "utf-7"]), errors="replace")


def _swollen(data: bytes, chance: random.Random) -> bytes:
    return data + chance.choice([b"# x\n" * 70_000, b"\n" * 100_000, b"x" * 200_000, b"x: [" + b"1," * 20_000])


BYTE_CHANGES: list[Callable[[bytes, random.Random], bytes]] = [_flipped, _flipped, _flipped, _torn, _other_encoding,
                                                               _swollen]  # fmt: skip


def faults(checked: Checked, data: bytes) -> Iterator[str]:
    """The mistakes in an accepted spec, found with checks that do not use the code of the spec package."""
    spec = checked.spec
    kept = to_dict(spec)
    if from_dict(kept) != spec or to_dict(from_dict(kept)) != kept:
        yield "changes in a conversion to values and back"
    if SECRET in repr(kept):
        yield "contains a password"
    yield from (f"lost or changed: {path}" for path in _lost(read_text(data.decode(), "spec").value, _in_full(kept)))
    yield from (f"not finite: {path}" for path, value in _leaves(kept) if value != value or abs_of(value) == math.inf)
    names = [arm["name"] for arm in kept["arms"]]
    budget, scheduler, confirm = kept["budget"], kept["scheduler"], kept["confirm"]
    rung = scheduler["first_rung"]
    looks = kept["searches"]["at"] if "searches" in kept else []
    placebo = ["placebo"] if kept.get("placebo") else []
    rules = {
        "arms": 2 <= len(names) <= 100 and len(set(names)) == len(names),
        "names": all(NAME.fullmatch(name) and ".." not in name for name in [kept["name"], *names]),
        "baseline": kept["baseline"] in names,
        "variants": all(arm["variant"] in VARIANTS for arm in kept["arms"] if "variant" in arm),
        "one kind": all(sum(kind in arm for kind in KINDS) == 1 for arm in kept["arms"]),
        "trainables": len({"trainable" in arm for arm in kept["arms"]}) == 1,
        "first": all(len(arm.get("first", [])) <= budget["trials"] for arm in kept["arms"]),
        "warm start": not any("warm_start" in arm for arm in kept["arms"])
        or (not looks and kept["sampler"]["name"] in ("tpe", "gp")),
        "budget": all(type(budget[key]) is int and budget[key] >= 1 for key in ("trials", "epochs", "batch_size")),
        "rung": rung is None or (scheduler["name"] != "none" and 1 <= rung < budget["epochs"]),
        "factor": scheduler["reduction_factor"] >= 2,
        "margin": confirm["margin"] >= 0,
        # A claim about methods has looks, and a claim about settings has seeds; never both.
        "confirm": bool(looks) or (confirm["seeds"] >= 3 and 1 <= confirm["top_k"] <= budget["trials"]),
        "one claim": not looks or confirm.keys() == {"margin"},
        "looks": not looks or (looks[0] >= 3 and all(a < b for a, b in itertools.pairwise(looks))),
        "placebo": not placebo or (bool(looks) and "placebo" not in names),
        "resources": kept["resources"]["cpus"] >= 1 and kept["resources"]["gpus"] >= 0,
        "goal": kept["metric"]["goal"] in GOALS.get(kept["metric"].get("name"), ["maximize", "minimize"]),
        "seed": type(kept["seed"]) is int and 0 <= kept["seed"] < 2**31,
        "ranges": all(
            _orderly(range_)
            for section in (kept, *kept["arms"])
            for range_ in section["parameters"].values()
        ),
        "images": checked.images is None or min(vars(checked.images).values()) >= 1,
        "batch": checked.plan is None or checked.plan.steps_per_epoch >= 1,
        "every arm": not checked.arms or sorted(arm.name for arm in checked.arms) == sorted(names + placebo),
        "baseline first": not checked.arms or checked.arms[0].name == kept["baseline"],
    }  # fmt: skip
    yield from (rule for rule, good in rules.items() if not good)
    updates = checked.plan.updates if checked.plan else 0
    for arm in checked.arms:
        if not arm.space:
            yield f"arm {arm.name} searches nothing"
            continue
        for knob, domain in arm.space.items():
            if not _sound(knob, domain, updates, arm.kind):
                yield f"arm {arm.name}: {knob}: {domain}"
            for other, values in arm.when.get(knob, {}).items():
                decides = arm.space.get(other)
                if not (isinstance(decides, Choice) and values and all(value in decides.values for value in values)):
                    yield f"arm {arm.name}: {knob} depends on {other}, which does not decide"
        for setting in (arm.default, *arm.first):
            if list(setting) != [knob for knob in arm.space if _applies(knob, arm.when, setting)]:
                yield f"arm {arm.name}: a first setting has other knobs than those that apply: {setting}"
            if wrong := [knob for knob, value in setting.items() if not arm.space[knob].contains(value)]:
                yield f"arm {arm.name}: the first value of {wrong[0]} is outside its range"


def _applies(knob: str, when: Mapping[str, Mapping[str, tuple[Any, ...]]], setting: Mapping[str, Any]) -> bool:
    """Whether a knob has its place in a whole setting, which lacks those that do not apply."""
    return all(other in setting and setting[other] in values for other, values in when.get(knob, {}).items())


def abs_of(value: Any) -> float:
    """The absolute value of a number; 0 for anything else."""
    return abs(value) if isinstance(value, int | float) else 0


GOALS = {"val/acc": ["maximize"], "val/loss": ["minimize"]}
KINDS = ("variant", "optimizer", "trainable")


def _orderly(range_: dict[str, Any]) -> bool:
    low, high, scale, step, values = (range_[key] for key in ("min", "max", "scale", "step", "values"))
    if values is not None:
        alone = low is high is scale is step is None
        return alone and len(values) >= 2 and len({(isinstance(v, bool), v) for v in values}) == len(values)
    if low is None or high is None or not low < high:
        return False
    if (scale == "log" and low <= 0) or (scale == "one-minus-log" and high >= 1):
        return False
    if step is None:
        return True
    steps = (Fraction(str(high)) - Fraction(str(low))) / Fraction(str(step))
    return steps.denominator == 1 and steps >= 1 and scale in (None, "linear")


def _sound(knob: str, domain: Domain, updates: int, kind: str) -> bool:
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    if kind == "variant" and knob not in (*KNOBS, "batch_size", "augment_shift") and not knob.startswith("model."):
        return False
    if not isinstance(domain, Choice) and not domain.low < domain.high:
        return False
    if knob == "warmup":
        return all(type(value) is int and 1 <= value < updates for value in values)
    if knob == "restarts":
        return all(min(parse_restarts(str(value))) >= 1 for value in values)
    if knob in ("beta1", "beta2"):
        return all(0 <= float(value) < 1 for value in values)
    if knob in ("lr", "eps"):
        return all(0 < float(value) < math.inf for value in values)
    if knob in ("l2", "lambda_norm"):
        return all(0 <= float(value) < math.inf for value in values)
    return True


def _in_full(kept: dict[str, Any]) -> dict[str, Any]:
    """The values of a spec, with the defaults that it leaves out so that older specs keep their fingerprints."""
    left_out: dict[str, Any] = {"claim": "setting", "searches": None, "placebo": False, "families": {}}
    budget = {"epochs_per_search": None, **kept["budget"]}
    columns = {"image_column": None, "label_column": None}
    data = {"data": {**columns, **kept["data"]}} if "data" in kept else {}
    return {**left_out, **kept, "budget": budget, **data}


def _lost(written: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Paths of values in the file that the spec ignored or changed. There must be none."""
    if isinstance(written, dict) and isinstance(kept, dict):
        for key, value in written.items():
            # A key that says nothing may be left out.
            absent = () if value is None or value == [] else (f"{path}.{key}",)
            yield from _lost(value, kept[key], f"{path}.{key}") if key in kept else absent
    elif isinstance(written, list) and isinstance(kept, list) and len(written) == len(kept):
        for index, value in enumerate(written):
            yield from _lost(value, kept[index], f"{path}[{index}]")
    elif isinstance(kept, list) and not isinstance(written, list):
        # One value in place of a list of one.
        yield from _lost([written], kept, path)
    elif type(written) is int and isinstance(kept, dict):
        if kept.get("at") != [written]:
            yield path
    elif isinstance(written, str) and isinstance(kept, dict):
        shorthand = kept.get("variant", kept.get("name"))
        if shorthand != written:
            yield path
    elif written != kept or isinstance(written, bool) != isinstance(kept, bool):
        yield path


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{path}.{key}")
    else:
        yield path, value
