"""nginx as an upstream with one fixed answer from memory: the fastest there is, and it counts too."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.nginx import program
from benchmarks.processes import HOST, free_port, serving

ANSWER = (
    b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1700000000,"model":"bench","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"All happy families are alike; each unhappy family is '
    b'unhappy in its own way."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":64,'
    b'"completion_tokens":16,"total_tokens":80}}'
)

CONFIG = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; master_process on;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 64m;
  client_body_buffer_size 4m; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  log_format one "1";
  server {{
    listen {host}:{port} backlog=4096; default_type application/json;
    location = /v1/chat/completions {{ access_log {folder}/served one buffer=1m; return 200 '{answer}'; }}
    location = /v1/models {{ return 200 '{{"object":"list","data":[{{"id":"bench","object":"model"}}]}}'; }}
    location / {{ return 200 '{{}}'; }}
  }}
}}
"""

_PATIENCE = 5.0


class NginxProcess:
    """nginx in its own processes.

    Args:
        url: where it answers.
        folder: its configuration and counts.
        pid: its master process.
    """

    def __init__(self, url: str, folder: Path, pid: int) -> None:
        self.url = url
        self.pid = pid
        self._served = folder / "served"

    def reset(self) -> None:
        """Count from zero."""
        self._served.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        _wait_for(self._served.exists)

    def served(self, expected: int) -> int:
        """Return how many chats were answered.

        Args:
            expected: nginx writes its log a moment after it is told to; a count below this one is waited for.
        """
        lines = "1\n"
        os.kill(self.pid, signal.SIGUSR1)
        _wait_for(lambda: self._served.stat().st_size >= expected * len(lines))
        return self._served.stat().st_size // len(lines)


@contextmanager
def nginx_fixed() -> Iterator[NginxProcess]:
    """Run nginx while the block lasts.

    Raises:
        RuntimeError: it is not installed, or did not start; the message says what to do.
    """
    with tempfile.TemporaryDirectory(prefix="bench-upstream-") as name:
        folder = Path(name)
        # Its worker is another user when root starts it, and has to reach its files.
        folder.chmod(0o755)
        port = free_port()
        url = f"http://{HOST}:{port}"
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, host=HOST, port=port, answer=ANSWER.decode()))
        command: list[str | Path] = [program(), "-c", config, "-e", folder / "error.log"]
        with serving("nginx as upstream", command, f"{url}/health") as server:
            yield NginxProcess(url, folder, server.process.pid)


def _wait_for(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.005)
    return False
