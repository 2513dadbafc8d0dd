"""Every option, each way it can be said, and what is said about one that cannot be."""

import dataclasses
from contextlib import suppress

import certifi
import pytest
from hypothesis import given, strategies

from illm.config import OPTIONS, Config, environment_name, load, shown_default
from illm.core.requests import Sampling
from illm.errors import ConfigError

# option: (text, what it means, texts that cannot be)
VALUES = {
    "framework": ("vllm", "vllm", ["", "VLLM", "torch"]),
    "model": ("org/name", "org/name", [" "]),
    "embedding_model": ("org/name", "org/name", [" "]),
    "host": ("::1", "::1", [" "]),
    "port": ("0", 0, ["-1", "65536", "http", "8000.0", ""]),
    "device": ("cuda:1", "cuda:1", ["gpu", "cuda:x", "CPU"]),
    "vllm_base_url": (
        "https://h:1/v1/, http://b:2/prefix,",
        ("https://h:1/v1/", "http://b:2/prefix"),
        ["h:1", "ftp://h", "http://", "http://h:99999", "http://h:", "http://[::1", "http://a,http://b:0", ",", " "],
    ),
    "sglang_base_url": ("http://h", ("http://h",), ["http://h?x=1", "http://h#x", "http://h /", "http://h/../x"]),
    "tgi_base_url": ("unix:///run/tgi", ("unix:///run/tgi",), ["http://user:hunter2@h", "http://h\n", "unix://h"]),
    "tei_base_url": ("http://h", ("http://h",), ["http://\x00h", "http://h\t", "http://h:8\u00a0", "http://a b"]),
    "ollama_base_url": ("http://[::1]:5", ("http://[::1]:5",), ["localhost:11434", "http://[fe80::1%25eth0]:5"]),
    **{
        f"{kind}_api_key": ("s3cret", "s3cret", ["two words", "schlüssel", "line\n"])
        for kind in ("vllm", "sglang", "tgi", "tei", "ollama")
    },
    "tgi_local": ("1", True, ["maybe", "2"]),
    "allow_image_hosts": ("10.0.0.0/8, images", ("10.0.0.0/8", "images"), ["10.0.0.1/8", "http://images"]),
    "allow_image_ports": ("8080,9000", (8080, 9000), ["0", "http", "65536"]),
    "image_ca_file": (certifi.where(), certifi.where(), ["/no/such/file", __file__, "/"]),
    "image_timeout": ("9", 9.0, ["0", "nan"]),
    "max_images": ("0", 0, ["-1", "many"]),
    "max_image_bytes": ("5", 5, ["0"]),
    "max_images_bytes": ("5", 5, ["0"]),
    "max_image_pixels": ("5", 5, ["0"]),
    "max_image_fetches": ("5", 5, ["0"]),
    "upstream_ca_file": (certifi.where(), certifi.where(), ["/no/such/file", __file__, "/"]),
    "upstream_connections": ("1", 1, ["0", "65537"]),
    "max_tokens": ("5", 5, ["0", "-1", "1.5", "1e3", str(2**31), "9" * 5000]),
    "temperature": ("0", 0.0, ["-0.1", "2.1", "nan", "inf", "warm"]),
    "top_p": ("1", 1.0, ["0", "1.1", "nan"]),
    "top_k": ("0", 0, ["-1", "x"]),
    "repetition_penalty": ("1.1", 1.1, ["0", "101", "nan"]),
    "api_key": ("s3cret", "s3cret", ["two words", "schlüssel", "line\n"]),
    "allow_models": ("org/*, other", ("org/*", "other"), []),
    "max_loaded_models": ("1", 1, ["0", "1025"]),
    "auto_install": ("true", True, ["maybe", "2"]),
    "loop": ("trio", "trio", ["curio", "uvloop"]),
    "http": ("httptools", "httptools", ["httpx", "own"]),
    "workers": ("2", 2, ["0", "-1", "two", "1025"]),
    "log_format": ("json", "json", ["xml"]),
    "log_level": ("debug", "debug", ["loud"]),
    "dtype": ("float32", "float32", ["int8"]),
    "embedding_dtype": ("bfloat16", "bfloat16", ["int8"]),
    "audio_model": ("org/ears", "org/ears", [" "]),
    "audio_threads": ("2", 2, ["-1"]),
    "max_audio_bytes": ("2048", 2048, ["0"]),
    "max_audio_seconds": ("60", 60.0, ["0", "nan"]),
    "rerank_model": ("org/judge", "org/judge", [" "]),
    "keep_alive": ("90", 90.0, ["-1", "nan"]),
    "memory_budget": ("1.5GB", 1_500_000_000, ["-1", "much", "GB", "nan", "inf"]),
    "engine": ("process", "process", ["fork"]),
    "quantize": ("int8", "int8", ["int4"]),
    "threads": ("3", 3, ["-1"]),
    "kv_tokens": ("100", 100, ["-1"]),
    "prefix_cache": ("off", "off", ["0", "full"]),
    "max_sequences": ("8", 8, ["0"]),
    "tool_format": ("hermes", "hermes", ["xml", ""]),
    "reasoning": ("off", "off", ["maybe"]),
    "max_queue": ("8", 8, ["0"]),
    "first_token_timeout": ("0.5", 0.5, ["0", "-1", "nan"]),
    "request_timeout": ("9", 9.0, ["0"]),
    "connect_timeout": ("9", 9.0, ["0", "-1"]),
    "idle_timeout": ("9", 9.0, ["0", "nan"]),
    "client_timeout": ("9", 9.0, ["0"]),
    "drain_timeout": ("0", 0.0, ["-1"]),
    "max_body_bytes": ("2048", 2048, ["1023"]),
}
WRONG = [(option, text) for option, (_, _, wrong) in VALUES.items() for text in wrong if text]


def test_the_table_above_holds_every_option():
    assert set(VALUES) == set(OPTIONS) == {field.name for field in dataclasses.fields(Config)} - {"said"}


@pytest.mark.parametrize("option", VALUES)
def test_each_option_can_be_said_in_the_environment_and_on_the_command_line(option):
    text, value, _ = VALUES[option]
    assert getattr(load({environment_name(option): text}), option) == value
    assert getattr(load({}, {option: text}), option) == value
    assert getattr(Config(), option) != value, "the table should say something else than the default"


@pytest.mark.parametrize("option", VALUES)
def test_the_environment_goes_over_the_default_and_the_command_line_over_both(option):
    text, value, _ = VALUES[option]
    default = getattr(Config(), option)
    shown = str(int(default)) if isinstance(default, bool) else shown_default(option)
    assert getattr(load({}), option) == default
    if shown != "none":
        assert getattr(load({environment_name(option): text}, {option: shown}), option) == default
    assert getattr(load({environment_name(option): "wrong, and never looked at"}, {option: text}), option) == value


@pytest.mark.parametrize(("option", "text"), WRONG)
def test_a_wrong_value_names_the_place_it_came_from_and_the_reason(option, text):
    for said, place in (
        (lambda: load({environment_name(option): text}), environment_name(option)),
        (lambda: load({}, {option: text}), f"--{option.replace('_', '-')}"),
    ):
        with pytest.raises(ConfigError) as refused:
            said()
        message = str(refused.value)
        assert message.startswith(place)
        assert "must" in message or "expected" in message
        assert refused.value.__cause__ is None


@pytest.mark.parametrize(("option", "text"), [(option, text) for option, text in WRONG if OPTIONS[option].secret])
def test_a_key_is_never_repeated(option, text):
    with pytest.raises(ConfigError) as refused:
        load({}, {option: text})
    assert text not in str(refused.value)
    assert repr(text) not in str(refused.value)


def test_every_key_is_secret():
    assert {option for option, row in OPTIONS.items() if row.secret} == {name for name in OPTIONS if "key" in name}


@pytest.mark.parametrize(
    "text",
    [
        "http://user:hunter2@h",
        "http://user:hunter2%40h",
        "http://user:a,hunter2@h",
        "http://good,http://user:hunter2@h:99999",
        "user:hunter2@h",
        "http://user:hunter2@h\n",
        "http://user:hunter2@[::1",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text):
    with pytest.raises(ConfigError) as refused:
        load({"ILLM_VLLM_BASE_URL": text})
    assert "hunter2" not in str(refused.value)


def test_a_configuration_can_be_logged_without_its_key():
    said = {environment_name(option): "s3cret" for option, row in OPTIONS.items() if row.secret}
    assert "s3cret" not in repr(load(said))


@pytest.mark.parametrize("option", VALUES)
def test_an_empty_variable_counts_as_unset(option):
    assert getattr(load({environment_name(option): ""}), option) == getattr(Config(), option)


@pytest.mark.parametrize("option", ["model", "api_key", "port", "host"])
def test_an_empty_word_on_the_command_line_does_not(option):
    with pytest.raises(ConfigError):
        load({}, {option: ""})


def test_saying_the_default_is_saying_something():
    assert not load({}).says("embedding_model")
    assert load({"ILLM_EMBEDDING_MODEL": Config.embedding_model}).says("embedding_model")
    assert load({}, {"embedding_model": Config.embedding_model}).says("embedding_model")
    assert Config(embedding_model="other").says("embedding_model")


def test_documented_defaults():
    config = load({})
    assert (config.framework, config.model) == ("transformers", "sshleifer/tiny-gpt2")
    assert (config.host, config.port, config.device) == ("0.0.0.0", 8000, "cpu")
    assert config.embedding_model == "sshleifer/tiny-distilbert-base-cased"
    assert config.ollama_base_url == ("http://127.0.0.1:11434",)
    assert not any(getattr(config, f"{kind}_base_url") for kind in ("vllm", "sglang", "tgi", "tei"))
    assert (config.api_key, config.allow_models, config.auto_install) == (None, (), False)
    assert config.sampling == Sampling()


def test_sampling_is_what_the_operator_said():
    config = load({"ILLM_TEMPERATURE": "0.5", "ILLM_TOP_K": "7"}, {"max_tokens": "3"})
    assert config.sampling == Sampling(temperature=0.5, top_k=7, max_tokens=3)


@pytest.mark.parametrize(
    ("globs", "model", "allowed"),
    [
        ("", "org/name", False),
        ("org/*", "org/name", True),
        ("org/*", "other/name", False),
        ("org/*", "ORG/name", False),
        ("a,org/name", "org/name", True),
        ("*", "anything/at-all", True),
        ("org/[ab]*", "org/beta", True),
    ],
)
def test_the_allow_list_is_globs(globs, model, allowed):
    assert load({"ILLM_ALLOW_MODELS": globs}).allows(model) is allowed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("TRUE", True),
        ("yes", True),
        ("on", True),
        ("0", False),
        ("False", False),
        ("no", False),
        ("off", False),
    ],
)
def test_switches(text, value):
    assert load({"ILLM_AUTO_INSTALL": text}).auto_install is value


@given(strategies.sampled_from(sorted(OPTIONS)), strategies.text(min_size=1, max_size=30))
def test_whatever_is_said_is_a_value_or_a_configuration_error(option, text):
    with suppress(ConfigError):  # and nothing else
        load({environment_name(option): text}, {})


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1
