"""A user's own reader: the cache key covers all that its answer is made of, and every field of it is checked."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainables.data.cache import load
from trainables.data.request import DataRequest
from trainables.data.splits import Arrays, Splits
from trainables.errors import CodeError, DataError

READER = """
from pathlib import Path

import numpy as np

from trainables.data.splits import Arrays, Raw
{imports}

def read(path):
    images = np.full((20, 8, 8, 3), {value}, np.uint8)
    images[:, 0, 0, 0] = np.arange(20)
    part = Arrays(images, np.arange(20) % 2)
    return Raw(part, part, ("cat", "dog"), flips=True, val=part)
"""
LOAD = """
import sys
from pathlib import Path

from trainables.data.cache import load
from trainables.data.request import DataRequest

name, path, cache = sys.argv[1:]
splits = load(DataRequest(name, path=path or None), Path(cache), print)
print("value", splits.train.images_BHWC[0, 1, 1, 1])
"""

Write = Callable[[str], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    code.mkdir()
    return code


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module that no other test has, and returns its name."""
    monkeypatch.syspath_prepend(str(folder))

    def write(text: str) -> str:
        name = "own_" + hashlib.sha256(f"{folder}{text}".encode()).hexdigest()[:8]
        (folder / f"{name}.py").write_text(text)
        return name

    return write


def loaded(folder: Path, name: str, path: Path | str = "", program: str = LOAD) -> tuple[str, str]:
    """The lines of a new process that loads the data, and the value of its pixels."""
    done = subprocess.run(
        [sys.executable, "-c", program, f"{name}:read", str(path), str(folder.parent / "cache")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines, _, value = done.stdout.strip().rpartition("value ")
    return lines, value


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of data beside the code."""
    there = tmp_path / "data"
    there.mkdir()
    (there / "pictures").write_text("1")
    return there


class TestCacheKey:
    def test_a_changed_helper_module_gives_the_new_images(self, folder: Path, data: Path) -> None:
        (folder / "own.py").write_text(READER.format(imports="", value="value()").replace("def read(path):", CALLED))
        (folder / "parts").mkdir()
        (folder / "parts" / "helper.py").write_text("VALUE = 10\n")
        assert loaded(folder, "own", data)[1] == "10"
        lines, value = loaded(folder, "own", data)
        assert (lines, value) == ("", "10"), "unchanged code is read from the cache"
        (folder / "parts" / "helper.py").write_text("VALUE = 20\n")
        assert loaded(folder, "own", data)[1] == "20"

    def test_a_reader_without_a_path_is_not_cached_and_says_so(self, folder: Path) -> None:
        (folder / "value.txt").write_text("10")
        (folder / "own.py").write_text(READER.format(imports="", value=FOUND))
        lines, value = loaded(folder, "own")
        assert value == "10"
        assert "not cached: own:read has no data.path, so every process calls it" in lines
        assert "add a function sources(path) to its module" in lines
        (folder / "value.txt").write_text("20")
        assert loaded(folder, "own")[1] == "20"

    def test_a_declared_file_counts(self, folder: Path) -> None:
        (folder / "value.txt").write_text("10")
        declared = 'def sources(path):\n    return [Path(__file__).with_name("value.txt")]\n'
        (folder / "own.py").write_text(READER.format(imports="", value=FOUND) + declared)
        lines, value = loaded(folder, "own")
        assert value == "10"
        assert "not cached" not in lines
        assert loaded(folder, "own") == ("", "10")
        (folder / "value.txt").write_text("200")
        assert loaded(folder, "own")[1] == "200"

    def test_a_file_that_is_opened_outside_the_path_is_named_and_nothing_is_cached(
        self, folder: Path, data: Path
    ) -> None:
        (folder / "value.txt").write_text("10")
        (folder / "own.py").write_text(READER.format(imports="", value=FOUND))
        lines, value = loaded(folder, "own", data)
        assert value == "10"
        assert f"not cached: own:read also opened {folder / 'value.txt'}, outside data.path" in lines
        (folder / "value.txt").write_text("20")
        assert loaded(folder, "own", data)[1] == "20"

    def test_a_reader_that_opens_only_its_data_is_cached(self, folder: Path, data: Path) -> None:
        (folder / "own.py").write_text(
            READER.format(imports="", value='10 * int((Path(path) / "pictures").read_text())')
        )
        assert "not cached" not in loaded(folder, "own", data)[0]
        assert loaded(folder, "own", data) == ("", "10")
        (data / "pictures").write_text("12")
        assert loaded(folder, "own", data)[1] == "120"

    def test_files_that_other_threads_open_do_not_count_and_those_of_the_readers_threads_do(
        self, folder: Path, data: Path
    ) -> None:
        for name in ("strange", "own"):
            (folder / f"{name}.txt").write_text("10")
        imports = "import threading, time\nHERE = Path(__file__).parent\n"
        strange = folder / "strange.txt"
        program = (
            "import threading, time\n"
            f"def other():\n    while True:\n        open({str(strange)!r}).close(); time.sleep(0.001)\n"
            f"threading.Thread(target=other, daemon=True).start()\n{LOAD}"
        )
        body = "\ndef read(path):\n    time.sleep(0.1)\n"
        text = READER.format(imports=imports, value="10").replace("\ndef read(path):\n", body)
        (folder / "own.py").write_text(text)
        assert "not cached" not in loaded(folder, "own", data, program)[0]
        mine = "    threading.Thread(target=(HERE / 'own.txt').read_text).start()\n"
        (folder / "own.py").write_text(text.replace(body, body.replace("    time", f"{mine}    time")))
        assert f"also opened {folder / 'own.txt'}, outside data.path" in loaded(folder, "own", data, program)[0]

    def test_a_file_that_is_opened_while_the_module_is_imported_counts(self, folder: Path, data: Path) -> None:
        np.save(folder / "value.npy", 10)
        imports = 'VALUE = np.load(Path(__file__).with_name("value.npy"))'
        (folder / "own.py").write_text(READER.format(imports=imports, value="VALUE"))
        # A check of the code, as `tuner validate` does it, imports the module before the data is loaded.
        for program in (LOAD, f"from trainables.catalog import load_object\nload_object('own:read')\n{LOAD}"):
            lines, value = loaded(folder, "own", data, program)
            assert f"not cached: own:read also opened {folder / 'value.npy'}, outside data.path" in lines
            assert value == "10"
        np.save(folder / "value.npy", 20)
        assert loaded(folder, "own", data)[1] == "20"

    def test_a_file_that_a_model_opened_for_the_readers_module_counts(self, folder: Path, data: Path) -> None:
        np.save(folder / "value.npy", 10)
        (folder / "shared.py").write_text("import numpy as np\nVALUE = np.load(__file__[:-9] + 'value.npy')\n")
        (folder / "model.py").write_text("import shared\n\ndef build():\n    pass\n")
        (folder / "own.py").write_text(READER.format(imports="import shared", value="shared.VALUE"))
        program = f"from trainables.catalog import load_object\nload_object('model:build')\n{LOAD}"
        assert f"also opened {folder / 'value.npy'}" in loaded(folder, "own", data, program)[0]

    def test_a_file_that_stays_in_memory_counts_for_every_split(self, folder: Path, data: Path) -> None:
        (folder / "value.txt").write_text("10")
        kept = f"from functools import lru_cache\n\n@lru_cache\ndef value():\n    return {FOUND}\n"
        (folder / "own.py").write_text(READER.format(imports=kept, value="value()"))
        program = LOAD + "load(DataRequest(name, path=path, train_images=10), Path(cache), print)\nprint('value 10')\n"
        assert loaded(folder, "own", data, program)[0].count("not cached: own:read also opened") == 2

    def test_what_an_installed_package_opens_while_it_is_imported_does_not_count(
        self, folder: Path, data: Path
    ) -> None:
        installed = folder.parent / "site-packages"
        installed.mkdir()
        (folder.parent / "fonts.json").write_text("{}")
        (installed / "plots.py").write_text(f"fonts = open({str(folder.parent / 'fonts.json')!r}).read()\n")
        imports = f"import sys\nsys.path.append({str(installed)!r})\nimport plots"
        (folder / "own.py").write_text(READER.format(imports=imports, value="10"))
        assert "not cached" not in loaded(folder, "own", data)[0]

    @pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no folder in memory")
    def test_a_file_in_memory_counts(self, folder: Path, data: Path) -> None:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            (folder / "own.py").write_text(READER.format(imports="", value=f"10 + len(open({file.name!r}).read())"))
            assert f"also opened {file.name}, outside data.path" in loaded(folder, "own", data)[0]

    def test_modules_of_environments_and_hidden_folders_do_not_count(self, folder: Path, data: Path) -> None:
        (folder / "own.py").write_text(READER.format(imports="", value="10"))
        loaded(folder, "own", data)
        for other in (".hidden", "env", "conda", "__pycache__"):
            (folder / other).mkdir()
            (folder / other / "x.py").write_text("")
        (folder / "env" / "pyvenv.cfg").write_text("")
        (folder / "conda" / "conda-meta").mkdir()
        assert loaded(folder, "own", data) == ("", "10")

    def test_a_module_that_cannot_be_read_does_not_count(
        self, reader: Write, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "secret.py").write_text("")
        read_bytes = Path.read_bytes

        def refuse(file: Path) -> bytes:
            if file.name == "secret.py":
                raise PermissionError(13, "Permission denied", str(file))
            return read_bytes(file)

        monkeypatch.setattr(Path, "read_bytes", refuse)
        name = reader(READER.format(imports="", value="10"))
        load(DataRequest(f"{name}:read", path=str(data)), data.parent / "cache")

    @pytest.mark.parametrize(
        ("body", "error", "message"),
        [
            ("return ['x.txt']", CodeError, "returned 'x.txt'; every path must be absolute"),
            ("return 'x.txt'", CodeError, "must return a list of paths, not str"),
            ("return ['/no/such/file']", DataError, "/no/such/file: no such file or folder"),
            ("1 / 0", CodeError, r"sources' raised ZeroDivisionError: division by zero \(.*own_.*\.py:\d+\)"),
        ],
    )
    def test_wrong_sources_are_refused_in_one_line(
        self, reader: Write, tmp_path: Path, body: str, error: type[Exception], message: str
    ) -> None:
        name = reader(READER.format(imports="", value="10") + f"\ndef sources(path):\n    {body}\n")
        with pytest.raises(error, match=message) as caught:
            load(DataRequest(f"{name}:read"), tmp_path / "cache")
        assert "\n" not in str(caught.value)


CALLED = """
def value():
    from parts import helper
    return helper.VALUE


def read(path):"""
FOUND = 'int(Path(__file__).with_name("value.txt").read_text())'


class TestRandomness:
    @pytest.mark.parametrize("draw", ["np.random.randint(256)", "random.randrange(256)"])
    def test_a_reader_that_draws_from_a_global_stream_gives_the_same_images_each_time(
        self, reader: Write, tmp_path: Path, draw: str
    ) -> None:
        name = reader(READER.format(imports="import random", value=draw))
        before = str(np.random.get_state())
        prints = {load(DataRequest(f"{name}:read"), tmp_path, lambda line: None).fingerprint for _ in range(2)}
        assert len(prints) == 1
        assert str(np.random.get_state()) == before

    def test_a_reader_with_a_generator_of_its_own_is_refused(self, reader: Write, tmp_path: Path) -> None:
        name = reader(READER.format(imports="", value="np.random.default_rng().integers(0, 256, (20, 8, 8, 3))"))
        with pytest.raises(CodeError, match=r"returned other images at its second call; draw from random, numpy\.r"):
            load(DataRequest(f"{name}:read"), tmp_path, lambda line: None)

    def test_a_reader_with_a_generator_of_its_own_and_a_file_elsewhere_is_refused(
        self, reader: Write, folder: Path, data: Path
    ) -> None:
        (folder / "value.txt").write_text("10")
        name = reader(READER.format(imports="", value=f"np.random.default_rng().integers({FOUND}, 256, (20, 8, 8, 3))"))
        with pytest.raises(CodeError, match="returned other images at its second call"):
            load(DataRequest(f"{name}:read", path=str(data)), data.parent / "cache", lambda line: None)


ANSWER = """
import numpy as np

from trainables.data.splits import Arrays, Raw

images = np.zeros((20, 8, 8, 3), np.uint8)
labels = np.arange(20) % 2
part = Arrays(images, labels)
names = ("cat", "dog")

def read(path):
    return {answer}
"""


class TestAnswer:
    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ("Raw(part, part, np.array(names), True)", "classes must be a tuple of names.*, not a numpy.ndarray"),
            ("Raw(part, part, 2, True)", r"classes must be a tuple of names, one per class, not 2 \(int\)"),
            ("Raw(part, part, 'ab', True)", r"classes must be a tuple of names, one per class, not 'ab' \(str\)"),
            ("Raw(part, part, (0, 1), True)", r"but classes\[0\] is 0 \(int\); use str\(\)"),
            ("Raw(part, part, (), True)", "classes is empty"),
            ("Raw(part, part, ('cat', 'cat'), True)", "classes names 'cat' 2 times"),
            ("Raw((images, labels), part, names, True)", r"train must be .*Arrays\(images, labels\), not a tuple"),
            ("Raw(part, None, names, True)", "test must be .*, not a NoneType"),
            ("Raw(part, part, names, True, (images, labels))", "val must be .*, not a tuple"),
            ("Raw(part, part, names, 'no')", r"flips must be True or False, not 'no' \(str\)"),
            ("Raw(part, part, names, np.True_)", "flips must be True or False, not a numpy.bool"),
            ("Raw(Arrays(images.tolist(), labels), part, names, True)", "train images must be a numpy array, not a li"),
            ("Raw(Arrays(images, list(labels)), part, names, True)", "train labels must be a numpy array, not a list"),
            ("Raw(Arrays(images / 255, labels), part, names, True)", "train images must be uint8, 0 to 255, not float"),
            ("Raw(Arrays(images[..., 0], labels), part, names, True)", r"four axes, .*, not shape \(20, 8, 8\)"),
            ("Raw(Arrays(images[:, :0], labels), part, names, True)", r"four axes, .*, not shape \(20, 0, 8, 3\)"),
            (
                "Raw(Arrays(images, labels[:5]), part, names, True)",
                r"one for each of the 20 images, not int64 .*5,",
            ),
            ("Raw(Arrays(images, labels * 1.0), part, names, True)", "labels must be int64, .*, not float64"),
            (
                "Raw(part, Arrays(images[:, :4], labels), names, True)",
                "one height, width and number of channels, not train 8 x 8 pixels with 3 channels, test 4 x 8 pixels",
            ),
            ("(part, part)", "must return trainables.data.splits.Raw, not tuple"),
        ],
    )
    def test_every_field_is_checked(self, reader: Write, tmp_path: Path, answer: str, message: str) -> None:
        name = reader(ANSWER.format(answer=answer))
        with pytest.raises(CodeError, match=message) as caught:
            load(DataRequest(f"{name}:read"), tmp_path / "cache")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("channels", [3, 13])
    def test_channels_first_is_refused(self, reader: Write, tmp_path: Path, channels: int) -> None:
        shape = f"(20, {channels}, 32, 32)"
        name = reader(ANSWER.format(answer="Raw(part, part, names, True)").replace("(20, 8, 8, 3)", shape))
        message = f"{channels} x 32 pixels with 32 channels; this looks like channels first: use"
        with pytest.raises(CodeError, match=message):
            load(DataRequest(f"{name}:read"), tmp_path / "cache")

    @pytest.mark.parametrize("shape", [(2, 3, 3), (32, 13, 32), (8, 9, 32), (32, 32, 32)])
    def test_small_images_and_many_channels_are_taken(
        self, reader: Write, tmp_path: Path, shape: tuple[int, int, int]
    ) -> None:
        text = ANSWER.format(answer="Raw(part, part, names, True)").replace("(20, 8, 8, 3)", str((20, *shape)))
        splits = load(DataRequest(f"{reader(text)}:read"), tmp_path / "cache")
        assert splits.train.images_BHWC.shape[1:] == shape

    @pytest.mark.parametrize(
        ("labels", "names", "message"),
        [
            (
                "np.where(np.arange(20) % 2, 1440764, 1443537)",
                "tuple(map(str, range(1443538)))",
                "only 2 of 1,443,538 classes have images, with labels 1440764 to 1443537",
            ),
            (
                "np.arange(20) % 2 + 1",
                "('', 'cat', 'dog')",
                r"labels begin at 1, so the class '' \(label 0\) has no im",
            ),
            ("np.arange(20) % 2 + 1", "('cat', 'dog')", "labels are 1 to 2, but there are 2 classes"),
            ("np.full(20, -1)", "('cat', 'dog')", "labels are -1 to -1, but there are 2 classes"),
        ],
    )
    def test_labels_that_are_no_positions_are_refused(
        self, reader: Write, tmp_path: Path, labels: str, names: str, message: str
    ) -> None:
        text = ANSWER.replace("np.arange(20) % 2", labels).replace("('cat', 'dog')", names)
        name = reader(text.replace('("cat", "dog")', names).format(answer="Raw(part, part, names, True)"))
        with pytest.raises(CodeError, match=f"{message}.*a label is a position in classes, from 0"):
            load(DataRequest(f"{name}:read"), tmp_path / "cache")

    def test_arrays_of_any_memory_layout_are_taken(self, reader: Write, tmp_path: Path) -> None:
        text = ANSWER.replace("np.zeros((20, 8, 8, 3), np.uint8)", "np.arange(20 * 192, dtype=np.uint8)" + VIEW)
        name = reader(text.format(answer="Raw(part, part, list(names), True, part)"))
        splits: Splits = load(DataRequest(f"{name}:read"), tmp_path / "cache")
        expected = np.arange(20 * 192, dtype=np.uint8).reshape(20, 3, 8, 8).transpose(0, 2, 3, 1)[..., ::-1]
        assert np.array_equal(splits.test.images_BHWC, expected)
        assert splits.test.images_BHWC.flags.c_contiguous
        assert splits.classes == ("cat", "dog")
        assert isinstance(splits.test, Arrays)

    def test_an_error_in_a_reader_names_the_users_file_and_line_without_control_codes(
        self, reader: Write, tmp_path: Path
    ) -> None:
        name = reader(
            "def read(path):\n    return helper()\n\ndef helper():\n"
            '    raise OSError("a\\x07\\x1b]0;b\\x07\\x9b1mc\\n")\n'
        )
        with pytest.raises(CodeError) as caught:
            load(DataRequest(f"{name}:read"), tmp_path / "cache")
        assert str(caught.value) == f"'{name}:read' raised OSError: ac ({tmp_path / 'code' / name}.py:5)"

    def test_a_reader_that_exits_is_an_error(self, reader: Write, tmp_path: Path) -> None:
        name = reader("def read(path):\n    raise SystemExit(3)\n")
        with pytest.raises(CodeError, match="raised SystemExit: 3"):
            load(DataRequest(f"{name}:read"), tmp_path / "cache")


VIEW = ".reshape(20, 3, 8, 8).transpose(0, 2, 3, 1)[..., ::-1]"
