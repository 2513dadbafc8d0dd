"""The cache of converted GGUF files: made once, whole or not at all, made again when damaged."""

import json
import os
import threading

import pytest

from illm.backends.local import conversion, demo
from illm.backends.local.conversion import MANIFEST, cache_root, converted
from illm.errors import GatewayError, Kind

pytest.importorskip("filelock")


class Converter:
    """Stands for Transformers: copies the file, and counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, gguf, directory, progress):
        self.calls += 1
        progress("converting", 0.5)
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors").write_bytes(gguf.read_bytes())


def quietly(text, part):
    pass


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def gguf(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF and weights")
    return file


def visible(root):
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def hidden_directories(root):
    return [path.name for path in root.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_a_file_is_converted_once(root, gguf):
    convert, told = Converter(), []
    directory = converted(gguf, lambda text, part: told.append((text, part)), convert)
    assert directory.parent == root
    assert directory.name.startswith("tiny-")
    assert (directory / "model.safetensors").read_bytes() == gguf.read_bytes()
    assert ("converting", 0.5) in told
    assert converted(gguf, quietly, convert) == directory
    assert convert.calls == 1
    assert hidden_directories(root) == []


def test_the_manifest_lists_every_file(root, gguf):
    directory = converted(gguf, quietly, Converter())
    files = json.loads((directory / MANIFEST).read_text())["files"]
    assert set(files) == {"config.json", "model.safetensors"}
    assert files["config.json"] == {
        "size": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(root, gguf, interruption):
    def convert(gguf, directory, progress):
        (directory / "config.json").write_text("{}")
        assert visible(root) == []
        raise interruption

    with pytest.raises(interruption):
        converted(gguf, quietly, convert)
    assert visible(root) == []
    assert hidden_directories(root) == []
    again = Converter()
    converted(gguf, quietly, again)
    assert again.calls == 1


def test_what_a_killed_process_left_is_swept_away(root, gguf):
    directory = converted(gguf, quietly, Converter())
    (directory / MANIFEST).unlink()
    left = root / f".{directory.name}.abc.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    converted(gguf, quietly, Converter())
    assert hidden_directories(root) == []


def flip(file):
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "bit": lambda directory: flip(directory / "model.safetensors"),
    "cut": lambda directory: os.truncate(directory / "model.safetensors", 5),
    "gone": lambda directory: (directory / "config.json").unlink(),
    "manifest": lambda directory: (directory / MANIFEST).write_text("{"),
    "not an object": lambda directory: (directory / MANIFEST).write_text("[]"),
    "version": lambda directory: (directory / MANIFEST).write_text('{"version": 0, "source": "", "files": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_copy_is_made_again(root, gguf, damage):
    convert = Converter()
    directory = converted(gguf, quietly, convert)
    damage(directory)
    assert converted(gguf, quietly, convert) == directory
    assert convert.calls == 2
    assert (directory / "model.safetensors").read_bytes() == gguf.read_bytes()
    assert visible(root) == [directory.name]


def test_a_changed_file_is_another_source(root, gguf):
    convert = Converter()
    before = converted(gguf, quietly, convert)
    gguf.write_bytes(b"GGUF with other, longer weights")
    after = converted(gguf, quietly, convert)
    assert after != before
    assert (after / "model.safetensors").read_bytes() == gguf.read_bytes()


def test_those_who_come_at_the_same_time_wait_for_the_first(root, gguf):
    inside, go_on, waiting = threading.Event(), threading.Event(), threading.Event()
    count = Converter()

    def slow(gguf, directory, progress):
        inside.set()
        assert go_on.wait(10)
        count(gguf, directory, progress)

    def told(text, part):
        if text.startswith("waiting"):
            waiting.set()

    found = []
    first = threading.Thread(target=lambda: found.append(converted(gguf, quietly, slow)))
    second = threading.Thread(target=lambda: found.append(converted(gguf, told, count)))
    first.start()
    assert inside.wait(10)
    second.start()
    assert waiting.wait(10)
    go_on.set()
    first.join(10)
    second.join(10)
    assert len(found) == 2
    assert found[0] == found[1]
    assert count.calls == 1


def test_a_cache_that_cannot_be_written_is_an_error_not_a_crash(tmp_path, gguf, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(GatewayError) as caught:
        converted(gguf, quietly, Converter())
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED
    assert str(tmp_path) not in caught.value.message


def test_a_file_that_is_gone(root, tmp_path):
    with pytest.raises(GatewayError) as caught:
        converted(tmp_path / "gone.gguf", quietly, Converter())
    assert caught.value.kind is Kind.MODEL_NOT_FOUND


def test_the_packaged_model_is_put_together_first(root, monkeypatch):
    monkeypatch.setattr(demo, "digest", lambda: "f" * 64)

    def assemble(path):
        path.write_bytes(b"GGUF packaged")
        return path

    monkeypatch.setattr(demo, "assemble", assemble)
    directory = converted(demo.PACKAGED, quietly, Converter())
    assert directory.name == "demo-ffffffffffffffff"
    assert (directory / "model.safetensors").read_bytes() == b"GGUF packaged"
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", MANIFEST, "model.safetensors"]


def test_files_too_large_to_hash_at_each_start_are_compared_by_size(root, gguf, monkeypatch):
    monkeypatch.setattr(conversion, "_HASH_LIMIT", 3)
    convert = Converter()
    directory = converted(gguf, quietly, convert)
    flip(directory / "model.safetensors")
    converted(gguf, quietly, convert)
    assert convert.calls == 1
    os.truncate(directory / "model.safetensors", 5)
    converted(gguf, quietly, convert)
    assert convert.calls == 2


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ILLM_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/illm"),
        ({"HOME": "/home/me"}, "/home/me/.cache/illm"),
    ],
)
def test_where_the_cache_is(environment, expected, monkeypatch):
    for name in ("ILLM_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(cache_root()) == expected


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    for function in (demo.digest, demo.embedder_directory):
        with pytest.raises(GatewayError, match=r"illm\[demo\]"):
            function()
