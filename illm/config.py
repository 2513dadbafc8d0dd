"""The configuration: one table of options, read from defaults, then the environment, then the command line.

A `Config` is frozen and validated once; what a request says goes over it, per request.  The table is also what
`illm serve --help` and docs/configuration.md show.
"""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from illm.core.requests import OPEN, Sampling
from illm.errors import ConfigError
from illm.http11.engine import ENGINES
from illm.media.policy import WEB_PORTS, ImagePolicy, read_hosts
from illm.values import (
    bearer,
    certificates,
    device_name,
    filled,
    image_hosts,
    listed,
    nucleus,
    number,
    one_of,
    ports,
    size,
    switch,
    urls,
)

FRAMEWORKS = ("transformers", "vllm", "sglang", "tgi", "ollama")


@dataclass(frozen=True, slots=True)
class Option:
    """How one option is written outside: `parse` raises ValueError with a reason the operator understands."""

    help: str
    parse: Callable[[str], Any] = str
    secret: bool = False
    flag: bool = False


def _option(default: Any, help_: str, parse: Callable[[str], Any] = str, **more: bool) -> Any:
    option = Option(help_, parse, **more)
    return field(default=default, repr=not option.secret, metadata={"option": option})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the operator may say.  Each field's environment twin is `ILLM_` and its name in capitals."""

    framework: str = _option("transformers", "backend of a request that names none", one_of(*FRAMEWORKS))
    model: str = _option("sshleifer/tiny-gpt2", "`demo`, a hub id, a directory or a .gguf file", filled)
    embedding_model: str = _option(
        "sshleifer/tiny-distilbert-base-cased", "model that answers embeddings requests", filled
    )
    rerank_model: str | None = _option(
        None, "model that answers rerank requests; without one the cosine of embeddings does", filled
    )
    audio_model: str | None = _option(
        None, "model that turns speech into text: `demo`, a hub id or a directory", filled
    )
    host: str = _option("0.0.0.0", "address to listen on", filled)  # noqa: S104 - the documented default
    port: int = _option(8000, "port to listen on; 0 takes a free one", number(int, 0, 65535))
    device: str = _option("cpu", "where local models run: cpu, cuda, cuda:N or mps", device_name)
    vllm_base_url: tuple[str, ...] = _option(
        (), "address of a vLLM (or any OpenAI-style) server; several, with commas between, are replicas", urls
    )
    sglang_base_url: tuple[str, ...] = _option((), "the same for SGLang", urls)
    tgi_base_url: tuple[str, ...] = _option((), "the same for TGI", urls)
    tei_base_url: tuple[str, ...] = _option((), "the same for TEI, which answers embeddings for tgi", urls)
    ollama_base_url: tuple[str, ...] = _option(("http://127.0.0.1:11434",), "the same for Ollama", urls)
    vllm_api_key: str | None = _option(None, "bearer key that the vLLM server wants", bearer, secret=True)
    sglang_api_key: str | None = _option(None, "bearer key that the SGLang server wants", bearer, secret=True)
    tgi_api_key: str | None = _option(None, "bearer key that the TGI server wants", bearer, secret=True)
    tei_api_key: str | None = _option(None, "bearer key that the TEI server wants", bearer, secret=True)
    ollama_api_key: str | None = _option(None, "bearer key that the Ollama server wants", bearer, secret=True)
    tgi_local: bool = _option(
        False, "let the local Transformers engine answer for tgi, and speak TGI's own protocol", switch, flag=True
    )
    upstream_ca_file: str | None = _option(
        None, "certificates (PEM) that https servers are checked against, instead of the system's", certificates
    )
    upstream_connections: int = _option(2048, "connections to one remote server", number(int, 1, 2**16))
    max_tokens: int | None = _option(None, "default limit of generated tokens", number(int, 1, 2**31 - 1))
    temperature: float | None = _option(None, "default sampling temperature", number(float, 0, 2))
    top_p: float | None = _option(None, "default nucleus size", nucleus)
    top_k: int | None = _option(None, "default number of candidate tokens; 0 for all", number(int, 0, 2**31 - 1))
    repetition_penalty: float | None = _option(None, "default repetition penalty", number(float, 0.01, 100))
    api_key: str | None = _option(None, "bearer key that every request but /healthz must carry", bearer, secret=True)
    allow_models: tuple[str, ...] = _option(
        (), "comma-separated globs of models a request may name; the models named at start always may", listed
    )
    max_loaded_models: int = _option(2, "how many models that only requests named stay loaded", number(int, 1, 1024))
    keep_alive: float = _option(
        0.0, "seconds after which a local model that nobody asks for is unloaded; 0 for never", number(float, 0)
    )
    memory_budget: int = _option(0, "memory for all local models together, as 8GB or in bytes; 0 for no limit", size)
    auto_install: bool = _option(
        False, "install missing packages of the chosen framework with pip at start", switch, flag=True
    )
    loop: str = _option("asyncio", "event loop: asyncio (uvloop where installed) or trio", one_of("asyncio", "trio"))
    http: str = _option(
        "auto", "who reads requests beside our own check: auto (nobody), h11 or httptools", one_of(*ENGINES)
    )
    workers: int = _option(1, "processes that serve; above 1 only with remote backends", number(int, 1, 1024))
    log_format: str = _option("text", "text or json", one_of("text", "json"))
    log_level: str = _option("info", "least severity that is logged", one_of("debug", "info", "warning", "error"))
    dtype: str = _option("auto", "number format of local text models", one_of("auto", "float32", "bfloat16", "float16"))
    engine: str = _option(
        "thread",
        "where a local model runs: thread (of the gateway) or process (one of its own)",
        one_of("thread", "process"),
    )
    quantize: str = _option(
        "none", "what of a local text model may be rounded: none, or int8 for its head", one_of("none", "int8")
    )
    embedding_dtype: str = _option(
        "auto", "number format of local embedding and rerank models", one_of("auto", "float32", "bfloat16", "float16")
    )
    threads: int = _option(0, "torch threads of a local model; 0 for one a core", number(int, 0, 1024))
    audio_threads: int = _option(0, "threads of a local speech model; 0 for half the cores", number(int, 0, 1024))
    kv_tokens: int = _option(0, "tokens the KV cache of a local model holds; 0 to fit the memory", number(int, 0))
    prefix_cache: str = _option(
        "on", "keep what a local model has computed for prompts that begin alike: on or off", one_of("on", "off")
    )
    max_sequences: int = _option(64, "sequences a local model decodes at once", number(int, 1, 4096))
    tool_format: str = _option(
        "auto",
        "how local models write tool calls: auto (as their template says), hermes, llama3, mistral, pythonic or none",
        one_of("auto", "hermes", "llama3", "mistral", "pythonic", "none"),
    )
    reasoning: str = _option(
        "auto",
        "split what local models think from what they say: auto (as their template says), on or off",
        one_of("auto", "on", "off"),
    )
    max_queue: int = _option(1024, "requests that may wait for one backend; one more gets 429", number(int, 1))
    first_token_timeout: float = _option(600.0, "seconds until the first token, or 504", number(float, 0.001))
    request_timeout: float = _option(3600.0, "seconds for a whole request", number(float, 0.001))
    connect_timeout: float = _option(
        5.0, "seconds until a remote server has accepted a connection, or 503", number(float, 0.001)
    )
    idle_timeout: float = _option(
        120.0, "seconds a remote server may fall silent in the middle of an answer", number(float, 0.001)
    )
    client_timeout: float = _option(30.0, "seconds a client may stall, sending or reading", number(float, 0.001))
    drain_timeout: float = _option(30.0, "seconds that running requests get at shutdown", number(float, 0))
    max_body_bytes: int = _option(64 * 2**20, "largest request body", number(int, 1024))
    max_audio_bytes: int = _option(25 * 2**20, "largest file of speech", number(int, 1))
    max_audio_seconds: float = _option(7200.0, "longest speech that a local model listens to", number(float, 1))
    allow_image_hosts: tuple[str, ...] = _option(
        (),
        "comma-separated networks, addresses and host names that images may come from although they are not public",
        image_hosts,
    )
    allow_image_ports: tuple[int, ...] = _option(
        (), "comma-separated ports that images may come from, beside 80 and 443", ports
    )
    image_ca_file: str | None = _option(
        None, "certificates (PEM) that https image servers are checked against, beside the usual ones", certificates
    )
    image_timeout: float = _option(20.0, "seconds for fetching the images of a request", number(float, 0.001))
    max_images: int = _option(64, "images in one request", number(int, 0))
    max_image_bytes: int = _option(20 * 2**20, "largest image", number(int, 1))
    max_images_bytes: int = _option(64 * 2**20, "all images of a request together", number(int, 1))
    max_image_pixels: int = _option(64_000_000, "most pixels of an image", number(int, 1))
    max_image_fetches: int = _option(64, "images that are fetched at once, for all requests", number(int, 1))

    said: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """The options that somebody gave a value, be it the default's."""

    def says(self, option: str) -> bool:
        """Whether an option's value is somebody's wish, and not only our default."""
        return option in self.said or getattr(self, option) != getattr(Config, option)

    @property
    def local(self) -> bool:
        """Whether the local engine answers requests that name no framework, and so `model` is its."""
        return self.framework == "transformers" or (self.framework == "tgi" and self.tgi_local)

    @cached_property
    def sampling(self) -> Sampling:
        """The operator's defaults, for what a request leaves open."""
        said = Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
        )
        return OPEN if said == OPEN else said

    @cached_property
    def images(self) -> ImagePolicy:
        """What images may be, and where they may come from."""
        hosts, networks = read_hosts(self.allow_image_hosts)
        return ImagePolicy(
            hosts=hosts,
            networks=networks,
            ports=WEB_PORTS | set(self.allow_image_ports),
            max_images=self.max_images,
            max_bytes=self.max_image_bytes,
            max_total_bytes=self.max_images_bytes,
            max_pixels=self.max_image_pixels,
            timeout=self.image_timeout,
            max_fetches=self.max_image_fetches,
            ca_file=self.image_ca_file,
        )

    def allows(self, model: str) -> bool:
        """Whether a request may name this model without the operator having named it at start."""
        return any(fnmatch.fnmatchcase(model, glob) for glob in self.allow_models)


OPTIONS: Mapping[str, Option] = {f.name: f.metadata["option"] for f in fields(Config) if "option" in f.metadata}


def shown_default(option: str) -> str:
    """Return an option's default as help and documentation show it, which is how it would be written."""
    default = getattr(Config, option)
    if default in (None, ()):
        return "none"
    return ",".join(default) if isinstance(default, tuple) else str(default)


def environment_name(option: str) -> str:
    """Return the option's environment twin: `max_tokens` → `ILLM_MAX_TOKENS`."""
    return f"ILLM_{option.upper()}"


def load(environment: Mapping[str, str], command_line: Mapping[str, str] | None = None) -> Config:
    """Put a configuration together: command line over environment over defaults.

    Args:
        environment: `os.environ`, say; only `ILLM_*` names are read, and an empty value counts as unset.
        command_line: option name → text as typed.

    Raises:
        ConfigError: a value that cannot be; names the place it came from, and never repeats a secret.
    """
    said: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        place, text = f"--{name.replace('_', '-')}", (command_line or {}).get(name)
        if text is None:
            place, text = environment_name(name), environment.get(environment_name(name)) or None
        if text is None:
            continue
        try:
            said[name] = option.parse(text)
        except ValueError as reason:
            # An address may have been written with a password in it, or with what its author took for an address.
            shown = "" if option.secret or "@" in unquote(text) else f" {text!r}"
            raise ConfigError(f"{place}{shown}: {reason}") from None
    return Config(**said, said=frozenset(said))
