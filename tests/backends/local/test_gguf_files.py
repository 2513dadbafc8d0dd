"""Which `.gguf` file a directory or a hub id stands for."""

import pytest

from illm.backends.local import conversion, sources
from illm.backends.local.gguf_files import in_cache, in_directory, pick
from illm.backends.local.mistakes import check_named
from illm.backends.local.sources import Source, fetch, resolve_named, resolve_requested
from illm.errors import ConfigError, GatewayError, Kind

from .conftest import write_config


def write(directory, *names):
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(b"GGUF")
    return directory


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ3_M.gguf", "README.md"], "m-Q8_0.gguf"),
        (["m.Q2_K.gguf", "m.BF16.gguf", "m.f16.gguf"], "m.BF16.gguf"),
        (["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf"], "m-Q4_0.gguf"),
        (["mmproj-F16.gguf", "some-model.gguf"], "some-model.gguf"),
        (["sub/m-Q6_K.gguf", "sub/mmproj-F16.gguf"], "sub/m-Q6_K.gguf"),
        (["model.safetensors", "m-00001-of-00002.gguf"], None),
    ],
)
def test_the_one_that_was_rounded_least_and_is_whole(names, best):
    assert pick(names) == best


def test_a_directory_with_one_file_is_that_file(tmp_path):
    directory = write(tmp_path / "my-model", "some.q4_0.gguf", "mmproj.gguf")
    file = directory / "some.q4_0.gguf"
    assert resolve_named(str(directory), "text") == Source("my-model", None, "text", gguf=file)
    write_config(directory, model_type="llama")
    assert resolve_named(str(directory), "text").gguf == file
    (directory / "model.safetensors").touch()
    assert resolve_named(str(directory), "text").directory == directory


def test_of_several_the_operator_has_to_name_one(tmp_path):
    directory = write(tmp_path / "both", "a.gguf", "b.gguf")
    with pytest.raises(GatewayError, match=r"name one: a\.gguf, b\.gguf"):
        in_directory(directory)
    with pytest.raises(ConfigError, match="name one"):
        check_named(str(directory))


def test_a_directory_is_checked_before_the_start(tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    directory = write(tmp_path / "model", "a.gguf")
    check_named(str(directory))
    (directory / "a.gguf").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        check_named(str(directory))


def test_a_hub_id_that_has_nothing_else_is_downloaded_and_converted(hub, monkeypatch, tmp_path):
    files = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    snapshot = write_config(tmp_path / "snapshot", model_type="llama")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(snapshot))
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, name: files)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, **_: str(write(snapshot, file) / file))
    converted = []
    monkeypatch.setattr(sources, "converted", lambda file, progress: converted.append(file.name) or tmp_path)
    source = resolve_named("org/model", "text")
    assert fetch(source, lambda *_: None).directory == tmp_path
    assert converted == ["m-Q8_0.gguf"]
    with pytest.raises(GatewayError) as refused:  # who only requests it does not choose what is converted here
        fetch(Source("org/model", None, "text", hub="org/model"), lambda *_: None)
    assert refused.value.kind is Kind.MODEL_LOAD_FAILED


def test_one_that_was_downloaded_is_found_without_the_hub(cached):
    snapshot = write(cached("org/model"), "m-Q4_0.gguf")
    assert in_cache("org/model") == snapshot / "m-Q4_0.gguf"
    assert resolve_named("org/model", "text").gguf == snapshot / "m-Q4_0.gguf"
    with pytest.raises(GatewayError):
        resolve_requested("org/model")
    assert in_cache("org/other") is None


def test_what_cannot_be_converted_is_refused_with_the_reason(tmp_path, monkeypatch):
    pytest.importorskip("filelock")
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "cache"))
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")

    def refuse(*_, **__):
        raise ValueError("GGUF model with architecture foo is not supported yet.")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    file = write(tmp_path, "foo.gguf") / "foo.gguf"
    with pytest.raises(GatewayError, match="architecture foo is not supported") as refused:
        conversion.converted(file, lambda *_: None)
    assert refused.value.kind is Kind.MODEL_LOAD_FAILED
    assert list((tmp_path / "cache" / "models").glob("foo*")) == []
