"""The command line: `illm serve`, `illm doctor`, `illm models`."""

import argparse
import importlib.util
import ipaddress
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from illm import __version__
from illm.config import FRAMEWORKS, OPTIONS, Config, environment_name, load, shown_default
from illm.errors import ConfigError

if TYPE_CHECKING:  # `illm --help` need not wait for what `illm serve` needs
    from illm.actors.directory import Directory
    from illm.actors.ref import Ref

_COMMANDS = ("serve", "doctor", "models")
_BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit status: 2 for a wrong value, as argparse has it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in (*_COMMANDS, "-h", "--help", "--version"):
        words.insert(0, "serve")
    options = vars(_parser().parse_args(words or ["--help"]))
    command, also = options.pop("command"), options.pop("framework_option")
    try:
        options["framework"] = _one_framework(options["framework"], also)
        config = load(os.environ, {name: value for name, value in options.items() if value is not None})
        return {"serve": _serve, "doctor": _doctor, "models": _models}[command](config)
    except ConfigError as error:
        print(f"illm: {error}", file=sys.stderr)
        return _BAD_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="illm", description="One OpenAI-compatible service in front of five backends."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "serve": "start the service",
        "doctor": "say which extras, devices, backends and models are there and what is missing",
        "models": "list the models that can be served",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("framework", nargs="?", metavar="FRAMEWORK", help=" | ".join(FRAMEWORKS))
        for option, row in OPTIONS.items():
            if option == "framework":
                continue
            text = f"{row.help} [{environment_name(option)}; default: {shown_default(option)}]"
            flag = f"--{option.replace('_', '-')}"
            if row.flag:
                command.add_argument(flag, dest=option, action="store_const", const="1", help=text)
            else:
                command.add_argument(flag, dest=option, metavar=option.rpartition("_")[2].upper(), help=text)
        command.add_argument("--framework", dest="framework_option", metavar="FRAMEWORK", help="the same as FRAMEWORK")
    return parser


def _one_framework(positional: str | None, option: str | None) -> str | None:
    if None not in (positional, option) and positional != option:
        raise ConfigError(f"two frameworks: {positional!r} and --framework {option!r}")
    return positional or option


def _serve(config: Config) -> int:
    from illm import log
    from illm.asgi.app import create_app
    from illm.backends.local.install import install_missing
    from illm.backends.local.mistakes import check_named
    from illm.build import build_directory
    from illm.server import Limits, raise_descriptor_limit, run

    _check_process(config)
    log.configure(config.log_format, config.log_level)
    raise_descriptor_limit()
    if config.local:
        if config.auto_install:
            install_missing(config)
        check_named(config.model)
        if config.says("embedding_model"):
            check_named(config.embedding_model, "embedding")
        if config.audio_model is not None:
            check_named(config.audio_model, "audio")
    app = create_app(config)
    offer = build_directory(config)  # only looked at: each event loop gets its own

    def announce(addresses: list[tuple[str, int]]) -> None:
        for line in (banner(config, addresses, offer), open_door(config, [host for host, _ in addresses])):
            if line is not None:
                print(line, file=sys.stderr, flush=True)

    limits = Limits(
        body_bytes=config.max_body_bytes,
        body_timeout=config.client_timeout,
        write_timeout=config.client_timeout,
        drain=config.drain_timeout,
    )
    loop: Literal["asyncio", "trio"] = "trio" if config.loop == "trio" else "asyncio"
    return run(
        app,
        host=config.host,
        port=config.port,
        loop=loop,
        http=config.http,
        workers=config.workers,
        limits=limits,
        on_listening=announce,
    )


def _check_process(config: Config) -> None:
    """Refuse what this installation, or several processes, cannot do."""
    if config.http != "auto" and importlib.util.find_spec(config.http) is None:
        raise ConfigError(f"--http {config.http}: it is not installed (pip install 'illm[fast]' brings httptools)")
    if config.quantize != "none" and config.device != "cpu":
        raise ConfigError(f"--quantize {config.quantize}: it is for the CPU, and --device is {config.device}")
    if config.engine == "process" and os.name != "posix":
        raise ConfigError("--engine process: this system has no way to hand a socket to a child process")
    if config.workers == 1:
        return
    if not hasattr(os, "fork"):
        raise ConfigError(f"--workers {config.workers}: this system cannot fork processes")
    local = {
        f"framework {config.framework}": config.local,
        "--tgi-local": config.tgi_local,
        "--embedding-model": config.says("embedding_model"),
        "--audio-model": config.audio_model is not None,
    }
    for option, said in local.items():
        if said:
            raise ConfigError(
                f"--workers {config.workers}: {option} means a local model, and each process would load its own; "
                "several workers are for remote backends only"
            )


def banner(config: Config, addresses: Sequence[tuple[str, int]], offer: "Directory") -> str:
    """Return the one line that start-up prints: address, backends, models, device, protection."""
    from illm.actors.backend import Unconfigured

    where = ", ".join(f"http://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses)
    # An address that is only our guess is no promise: who asks for it will see.
    guessed = {ref.served.framework for ref in offer if ref.served.optional}
    usable = [
        name
        for name, backend in offer.backends.items()
        if name not in guessed and not isinstance(backend, Unconfigured)
    ]
    models = [name for ref in offer if not ref.served.optional for name in _models_of(ref)]
    parts = {
        "backends": ", ".join(usable) or "none",
        "models": ", ".join(models) or "none",
        "device": config.device,
    }
    told = " | ".join(f"{name}: {value}" for name, value in parts.items())
    return f"illm {__version__} on {where} | {told} | {'key required' if config.api_key else 'no key'}"


def _models_of(ref: "Ref") -> Sequence[str]:
    return [f"those of {ref.model}"] if ref.placeholder else ref.models


def open_door(config: Config, hosts: Sequence[str]) -> str | None:
    """Return a warning where anybody beyond this machine can use the service; None where nobody can."""
    if config.api_key is not None or all(map(_loopback, hosts)):
        return None
    return (
        "illm: warning: listening beyond this machine without a key: anyone who reaches the port can use it; "
        "set --api-key or --host 127.0.0.1"
    )


def _doctor(config: Config) -> int:
    from illm.doctor import examine

    return examine(config)


def _models(config: Config) -> int:
    from illm.doctor import list_models

    return list_models(config)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("/")
