"""The command line: `illm serve`, `illm doctor`, `illm models`."""

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from typing import Literal

from illm import __version__
from illm.config import FRAMEWORKS, OPTIONS, Config, environment_name, load
from illm.errors import ConfigError

_COMMANDS = ("serve", "doctor", "models")
_BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit status: 2 for a wrong value, as argparse has it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in (*_COMMANDS, "-h", "--help", "--version"):
        words.insert(0, "serve")
    options = vars(_parser().parse_args(words or ["--help"]))
    command, also = options.pop("command"), options.pop("framework_option")
    options["framework"] = options["framework"] or also
    typed = {name: value for name, value in options.items() if value is not None}
    try:
        config = load(os.environ, typed)
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
            default = getattr(Config, option)
            shown = "none" if default in (None, ()) else default
            text = f"{row.help} [{environment_name(option)}; default: {shown}]"
            flag = f"--{option.replace('_', '-')}"
            if row.flag:
                command.add_argument(flag, dest=option, action="store_const", const="1", help=text)
            else:
                command.add_argument(flag, dest=option, metavar=option.rpartition("_")[2].upper(), help=text)
        command.add_argument("--framework", dest="framework_option", metavar="FRAMEWORK", help="the same as FRAMEWORK")
    return parser


def _serve(config: Config) -> int:
    from illm import log
    from illm.asgi.app import create_app
    from illm.backends.local.install import install_missing
    from illm.backends.local.sources import check_named
    from illm.server import Limits, run

    log.configure(config.log_format, config.log_level)
    if config.local:
        if config.auto_install:
            install_missing(config)
        check_named(config.model)
    app = create_app(config)

    def announce(addresses: list[tuple[str, int]]) -> None:
        print(banner(config, addresses), file=sys.stderr, flush=True)
        if config.api_key is None and not all(_loopback(host) for host, _ in addresses):
            print(
                "illm: warning: listening beyond this machine without a key: anyone who reaches the port can use it; "
                "set --api-key or --host 127.0.0.1",
                file=sys.stderr,
                flush=True,
            )

    limits = Limits(
        body_bytes=config.max_body_bytes,
        body_timeout=config.client_timeout,
        write_timeout=config.client_timeout,
        drain=config.drain_timeout,
    )
    loop: Literal["asyncio", "trio"] = "trio" if config.loop == "trio" else "asyncio"
    return run(app, host=config.host, port=config.port, loop=loop, limits=limits, on_listening=announce)


def banner(config: Config, addresses: Sequence[tuple[str, int]]) -> str:
    """Return the one line that start-up prints: address, backends, models, device, protection."""
    where = ", ".join(f"http://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses)
    remotes = [name for name in FRAMEWORKS[1:] if getattr(config, f"{name}_base_url")]
    backends = ", ".join([config.framework, *(name for name in remotes if name != config.framework)])
    key = "key required" if config.api_key else "no key"
    return f"illm {__version__} on {where} | backends: {backends} | model: {config.model} on {config.device} | {key}"


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
