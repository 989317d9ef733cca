"""Reading the YAML of a spec: files that are refused, and unusual files that are accepted."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import NotFound, SpecError
from tuner.spec.strict_yaml import MAX_BYTES, read, read_text

BAD: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 1, "empty"),
    "only comments": (b"# nothing\n\n", 1, "empty"),
    "null at the top": (b"null\n", 1, "empty"),
    "a list at the top": (b"\n- a\n- b\n", 2, "a list at the top"),
    "a scalar at the top": (b"hello\n", 1, "at the top"),
    "a tab": (b"a: 1\nb:\n\tc: 1\n", 3, "indent with spaces"),
    "an indent error": (b"a: 1\n  b: 2\n", 2, "not YAML"),
    "a list indent error": (b"a:\n   - 1\n  - 2\n", 3, "not YAML"),
    "an open quote": (b"a: 'x\n", 1, "not YAML"),
    "not UTF-8": (b"a: 1\nb: \xff\n", 2, "byte 0xff is not UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), 1, "not UTF-8"),
    "too large": (b"# " + b"x" * MAX_BYTES, 1, "larger than 256 KiB"),
    "too many values": (b"a: [" + b"1," * 100_000 + b"]", 1, "more than 10000 keys and values"),
    "deep lists": (b"a: " + b"[" * 5000, 1, "nested deeper than 32 levels"),
    "deep mappings": (b"a: " + b"{a: " * 5000, 1, "nested deeper than 32 levels"),
    "deep indentation": ("\n".join(" " * i + "a:" for i in range(400)).encode(), 33, "nested deeper than 32 levels"),
    "an anchor": (b"a: 1\nb: &x 1\n", 2, "anchor &x"),
    "an anchor on a mapping": (b"a: &x\n  b: 1\n", 1, "anchor &x"),
    "an alias": (b"a: 1\nb: *x\n", 2, "alias *x"),
    "a key twice": (b"a: 1\nb: 2\na: 3\n", 3, "key 'a' occurs twice, first on line 1"),
    "a nested key twice": (b"a:\n  b: 1\n  b: 2\n", 3, "key 'b' occurs twice, first on line 2"),
    "a Python tag": (b"a: !!python/object/apply:os.system [x]\n", 1, "tags are not allowed"),
    "a standard tag": (b"a: !!str 1\n", 1, "tags are not allowed"),
    "a tag on the top": (b"--- !x\na: 1\n", 1, "tags are not allowed"),
    "1e400": (b"a: 1\nb: 1e400\n", 2, "'1e400' is not a finite number"),
    "-1e400": (b"a: -1e400\n", 1, "not a finite number"),
    "infinity": (b"a: .inf\n", 1, "not a finite number"),
    "minus infinity": (b"a: -.Inf\n", 1, "not a finite number"),
    "nan": (b"a: .nan\n", 1, "not a finite number"),
    "a huge integer": (b"a: " + b"9" * 5000, 1, "too large a number"),
    "two documents": (b"a: 1\n---\nb: 1\n", 2, "a second document"),
    "a number as a key": (b"1: a\n", 1, "key '1' is not text"),
    "null as a key": (b"a: 1\n~: a\n", 2, "key '~' is not text"),
    "a truth value as a key": (b"true: a\n", 1, "key 'true' is not text"),
    "a list as a key": (b"? [a]\n: 1\n", 1, "keys must be text"),
    "NUL": (b"a: 1\nb: x\x00\n", 2, "control character U+0000"),
    "a bell": (b"a: \x07\n", 1, "control character U+0007"),
    "an escaped NUL": (b'a: "x\\0"\n', 1, "control character U+0000"),
    "an escaped surrogate": (b'a: "\\ud800"\n', 1, "control character U+D800"),
    "an escape beyond Unicode": (b'a: "\\U00110000"\n', 1, "not YAML"),
    "YAML 1.1": (b"%YAML 1.1\n---\na: yes\n", 2, "only %YAML 1.2 is allowed"),
    "YAML 1.3": (b"%YAML 1.3\n---\na: yes\n", 1, "not YAML"),
}

GOOD: dict[str, tuple[bytes, Any]] = {
    "1e-4": (b"a: 1e-4\n", 1e-4),
    "1E+3": (b"a: 1E+3\n", 1e3),
    "a bare point": (b"a: .5\n", 0.5),
    "an integer": (b"a: -12\n", -12),
    "octal": (b"a: 0o17\n", 15),
    "hexadecimal": (b"a: 0x1F\n", 31),
    "leading zeros are decimal": (b"a: 017\n", 17),
    "yes is text": (b"a: yes\n", "yes"),
    "off is text": (b"a: off\n", "off"),
    "a date is text": (b"a: 2024-01-31\n", "2024-01-31"),
    "a time is text": (b"a: 12:30\n", "12:30"),
    "underscores are text": (b"a: 1_000\n", "1_000"),
    "a quoted number is text": (b"a: '5'\n", "5"),
    "a quoted null is text": (b'a: "null"\n', "null"),
    "true": (b"a: true\n", True),
    "False": (b"a: False\n", False),
    "nothing is null": (b"a:\n", None),
    "a tilde is null": (b"a: ~\n", None),
    "a byte order mark": (b"\xef\xbb\xbfa: 1\n", 1),
    "CRLF": (b"b: 2\r\na: 1\r\n", 1),
    "an explicit document": (b"%YAML 1.2\n---\na: 1\n...\n", 1),
    "a flow list": (b"a: [1, x, null]\n", [1, "x", None]),
    "32 deep": (b"a: " + b"[" * 31 + b"]" * 31, None),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    data, line, problem = BAD[case]
    file = tmp_path / "spec.yaml"
    file.write_bytes(data)

    started_s = time.process_time()
    with pytest.raises(SpecError) as caught:
        read(file)

    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: ")
    assert problem in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(file))
    assert caught.value.exit_code == 2
    assert time.process_time() - started_s < 2


@pytest.mark.parametrize("case", GOOD)
def test_a_good_file_is_read_by_the_rules_of_yaml_1_2(case: str, tmp_path: Path) -> None:
    data, value = GOOD[case]
    file = tmp_path / "spec.yaml"
    file.write_bytes(data)

    read_value = read(file).value["a"]

    if value is not None or case != "32 deep":
        assert read_value == value
        assert type(read_value) is type(value)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file") as caught:
        read(tmp_path / "none.yaml")
    assert caught.value.exit_code == 4


def test_a_directory_is_refused_as_a_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a directory"):
        read(tmp_path)


def test_the_line_of_every_key_and_item_is_stored() -> None:
    document = read_text("a: 1\nb:\n  c:\n    - x\n    - {d: 2}\n", "spec")
    assert document.value == {"a": 1, "b": {"c": ["x", {"d": 2}]}}
    assert document.lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 4,
        ("b", "c", 1): 5,
        ("b", "c", 1, "d"): 5,
    }


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-[]{}#&*!|>'\"%@\\ \n\t0.?,~é\x85", max_size=60))
def test_any_text_raises_only_spec_errors(text: str) -> None:
    told = ""
    try:
        read_text(text, "spec")
    except SpecError as error:
        told = str(error)
    assert not told or told.startswith("spec:")
    assert "\n" not in told
