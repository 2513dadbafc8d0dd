"""nginx as a plain proxy: what a native program needs to pass bytes on, without a look at them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.peers.program import Program
from benchmarks.processes import HOST
from benchmarks.systems import Upstream

# nginx has no option for "no log at all" that also covers start-up: `crit` on standard error is as near as it gets.
_CONFIG = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
error_log stderr crit;
pid {home}/nginx.pid;
events {{
    worker_connections 8192;
}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 64m;
    client_body_buffer_size 2m;
    keepalive_requests 100000000;
    keepalive_timeout 3600s;
    tcp_nodelay on;
    upstream behind {{
        server {address};
        keepalive 2048;
        keepalive_requests 100000000;
    }}
    server {{
        listen {host}:{port} backlog=4096;
        location = /ready {{
            return 204;
        }}
        location / {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 3600s;
        }}
    }}
}}
"""


def config(upstream: Upstream, port: int, home: Path) -> str:
    """Return the configuration file."""
    return _CONFIG.format(home=home, address=urlsplit(upstream.url).netloc, host=HOST, port=port)


def program() -> str:
    """Return the path of nginx.

    Raises:
        RuntimeError: it is not installed.
    """
    # Debian keeps it where only root looks.
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")
    if found is None:
        raise RuntimeError("nginx is not installed: `apt-get install nginx`, or what your system has for it")
    return found


def _command(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
    # Its worker is another user when root starts it, and has to reach its files.
    home.chmod(0o755)
    path = home / "nginx.conf"
    path.write_text(config(upstream, port, home))
    return [program(), "-p", home, "-e", "stderr", "-c", path]


def _about() -> str:
    said = subprocess.run([program(), "-v"], capture_output=True, text=True, check=True)
    return said.stderr.strip().rpartition(" ")[2].replace("nginx/", "nginx ")


SYSTEM = Program(
    name="nginx",
    environment=None,
    command=_command,
    about=_about,
    health="/ready",
    lacks=frozenset({"translation"}),
)
