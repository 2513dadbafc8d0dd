import mmap
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.footprint import cpu_seconds, family, group, memory
from benchmarks.processes import fetch, free_port, serving, started, surroundings

# Answers 503 to the first two questions, and has a child that would outlive it.
SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"])
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        body = f"{asked} {child.pid}".encode()
        self.send_response(503 if asked < 3 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(self.headers["X-Mark"].encode()[:1] + body[1:])
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_is_there_when_its_answer_is_accepted_and_gone_afterwards_with_its_children():
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with serving("it", [sys.executable, "-c", SERVER, str(port)], url) as server:
        status, body = fetch(url)
        assert status == 200
        asked, child = body.split()
        assert int(asked) == 4  # twice 503, once 200, and this
        assert int(child) in server.pids
        assert server.pids[0] == server.process.pid
        assert fetch(url, body=b"?ello", headers={"X-Mark": "h"}) == (200, b"hello")
    assert server.process.returncode == -signal.SIGTERM
    assert group(server.process.pid) == ()
    assert family(int(child)) == ()


def test_nothing_stays_behind_when_the_suite_itself_is_killed():
    suite = (
        "import sys, os, signal\n"
        "from benchmarks.processes import started\n"
        "with started('it', [sys.executable, '-c', 'import signal; signal.pause()']) as server:\n"
        "    print(server.process.pid, flush=True)\n"
        "    signal.pause()\n"
    )
    root = Path(processes.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", suite], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert family(pid) == (pid,)
        process.kill()
    watch = select.poll()
    try:
        watch.register(os.pidfd_open(pid), select.POLLIN)
    except ProcessLookupError:
        return
    assert watch.poll(5000)


def test_what_does_not_stop_when_asked_is_killed(monkeypatch):
    monkeypatch.setattr("benchmarks.processes.GRACE", 0.05)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'w').close(); signal.pause()"
    with started("it", [sys.executable, "-c", deaf]) as server:
        pass
    assert server.process.returncode in (-signal.SIGKILL, -signal.SIGTERM)  # the latter where it was not yet deaf
    assert group(server.process.pid) == ()


def test_what_ends_instead_of_answering_says_what_it_said():
    command = [sys.executable, "-c", "import sys; sys.stderr.write('no such option'); sys.exit(3)"]
    with (
        pytest.raises(RuntimeError, match=r"(?s)it ended with status 3.*no such option"),
        serving("it", command, f"http://127.0.0.1:{free_port()}/"),
    ):
        pytest.fail("it never answered")


def test_what_never_answers_is_given_up_and_stopped():
    with (
        pytest.raises(RuntimeError, match="it did not start in 0 s"),
        serving(
            "it",
            [sys.executable, "-c", "import signal; signal.pause()"],
            f"http://127.0.0.1:{free_port()}/",
            patience=0.2,
        ),
    ):
        pytest.fail("it never answered")
    assert family(os.getpid()) == (os.getpid(),)


def test_an_answer_that_is_not_accepted_is_shown():
    port = free_port()
    with (
        pytest.raises(RuntimeError, match=r"did not start in \d s \((200|503) "),
        serving(
            "it",
            [sys.executable, "-c", SERVER, str(port)],
            f"http://127.0.0.1:{port}/",
            accept=lambda status, body: False,
            patience=3,
        ),
    ):
        pytest.fail("it was not accepted")


def test_surroundings_carry_nothing_of_ours(monkeypatch):
    for name in ("ILLM_API_KEY", "PYTHONPATH", "http_proxy", "HTTPS_PROXY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("KEPT", "y")
    found = surroundings({"PYTHONPATH": "theirs"})
    assert found["PYTHONPATH"] == "theirs"
    assert found["KEPT"] == "y"
    assert not {"ILLM_API_KEY", "http_proxy", "HTTPS_PROXY", "OMP_NUM_THREADS"} & found.keys()


def test_memory_counts_every_process_and_none_that_is_gone():
    own = memory([os.getpid()])
    assert 1 < own.pss_mb <= own.rss_mb
    assert memory([os.getpid(), os.getpid()]).rss_mb == pytest.approx(2 * own.rss_mb, rel=0.2)
    with mmap.mmap(-1, 50_000_000) as held:  # what Python freed before may be there still, and would not count twice
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert memory([os.getpid()]).rss_mb - own.rss_mb == pytest.approx(50, abs=10)
    assert memory([2**22 + 1]).rss_mb == 0


def test_processor_time_grows_with_work():
    before = cpu_seconds([os.getpid()])
    while os.times().user + os.times().system < before + 0.05:
        pass
    assert cpu_seconds([os.getpid()]) >= before + 0.03
    assert cpu_seconds([2**22 + 1]) == 0


def test_a_family_has_no_stranger():
    with started("it", [sys.executable, "-c", "import signal; signal.pause()"]) as server:
        assert server.process.pid in family(os.getpid())
        assert os.getpid() not in server.pids
    assert server.pids == ()
