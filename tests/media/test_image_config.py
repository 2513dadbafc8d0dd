"""The operator's words about images."""

import subprocess
import sys
from ipaddress import ip_network

import certifi
import pytest

from illm.config import load
from illm.errors import ConfigError
from illm.media import ImagePolicy


def test_defaults_are_the_policys_own():
    assert load({}).images == ImagePolicy()


def test_everything_can_be_said():
    said = {
        "ILLM_ALLOW_IMAGE_HOSTS": "10.1.0.0/16, fd00::/8, Images.Internal",
        "ILLM_ALLOW_IMAGE_PORTS": "8080,9000",
        "ILLM_MAX_IMAGES": "3",
        "ILLM_MAX_IMAGE_BYTES": "1000",
        "ILLM_MAX_IMAGES_BYTES": "2000",
        "ILLM_MAX_IMAGE_PIXELS": "4000",
        "ILLM_IMAGE_TIMEOUT": "1.5",
        "ILLM_MAX_IMAGE_FETCHES": "5",
        "ILLM_IMAGE_CA_FILE": certifi.where(),
    }
    assert load(said).images == ImagePolicy(
        hosts=frozenset({"images.internal"}),
        networks=(ip_network("10.1.0.0/16"), ip_network("fd00::/8")),
        ports=frozenset({80, 443, 8080, 9000}),
        max_images=3,
        max_bytes=1000,
        max_total_bytes=2000,
        max_pixels=4000,
        timeout=1.5,
        max_fetches=5,
        ca_file=certifi.where(),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ILLM_ALLOW_IMAGE_HOSTS", "10.0.0.1/8"),
        ("ILLM_ALLOW_IMAGE_HOSTS", "http://images.internal"),
        ("ILLM_ALLOW_IMAGE_PORTS", "0"),
        ("ILLM_ALLOW_IMAGE_PORTS", "http"),
        ("ILLM_IMAGE_CA_FILE", "/nowhere"),
        ("ILLM_MAX_IMAGE_BYTES", "0"),
        ("ILLM_IMAGE_TIMEOUT", "nan"),
    ],
)
def test_what_cannot_be(name, value):
    with pytest.raises(ConfigError, match=name):
        load({name: value})


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [("illm.config", "{'httpx', 'anyio', 'ssl', 'asyncio'}"), ("illm.asgi.generate, illm.media.images", "{'httpx'}")],
)
def test_httpx_is_loaded_by_the_first_fetch_only(modules, heavy):
    code = f"import sys, {modules}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
