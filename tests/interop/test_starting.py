"""How the application is started where a host or a server does it differently, on both loops."""

import signal

import pytest

from interop.servers import KINDS, running

pytestmark = pytest.mark.interop

STARTED = "started by the first request"
SIGNS = ("Traceback", "ResourceWarning", "RuntimeWarning")
HOSTS = ["ours-asyncio", "ours-trio", "uvicorn-httptools", "hypercorn-trio", "granian"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_lifespan_the_first_request_starts_it_and_says_so(kind):
    with running(kind, "create_without_lifespan") as server:
        server.until_loaded()
        assert server.ask("echo a").status_code == 200
        case = server.case()
        with server.asking(f"hold {case}"):
            server.ask(f"held {case}")
        assert server.ask(f"gone {case}").status_code == 200
    assert len([line for line in server.log if STARTED in line]) == 1
    assert not tracebacks(server), "".join(server.log)


@pytest.mark.parametrize("kind", HOSTS)
def test_a_host_runs_two_applications_in_its_own_lifespan(kind):
    pytest.importorskip("starlette", reason="starlette is in the extra `interop`")
    with running(kind, "create_mounted", "/one") as server:
        server.until_loaded()
        assert server.ask("echo a").status_code == 200
        case = server.case()
        with server.asking(f"drip {case}", stream=True) as connection:
            received = b""
            while b'"0 "' not in received:
                received += connection.recv(65536)
        assert server.ask(f"gone {case}").status_code == 200
        other = str(server.client.base_url).replace("/one", "/two")
        assert server.client.get(f"{other}healthz").status_code == 200
        assert server.client.get(f"{other}v1/models").status_code == 401
        assert server.client.get(f"{other}v1/models", headers={"authorization": "bearer sesame"}).status_code == 200
    assert not [line for line in server.log if STARTED in line]
    assert not tracebacks(server), "".join(server.log)


@pytest.mark.parametrize("kind", HOSTS)
def test_a_mount_whose_host_forwards_no_lifespan_starts_with_the_first_request(kind):
    pytest.importorskip("starlette", reason="starlette is in the extra `interop`")
    with running(kind, "create_mounted_only", "/one") as server:
        server.until_loaded()
        assert server.ask("echo a").status_code == 200
    assert len([line for line in server.log if STARTED in line]) == 1
    assert not tracebacks(server), "".join(server.log)


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_without_complaint_after_clients_left_in_the_middle(kind):
    with running(kind) as server:
        server.until_loaded()
        for _ in range(3):
            case = server.case()
            with server.stream(f"drip {case}") as response:
                next(response.iter_bytes())
            server.ask(f"gone {case}")
    assert server.status in (0, -signal.SIGTERM), server.status
    assert not tracebacks(server), "".join(server.log)


def tracebacks(server):
    return [line for line in server.log if any(sign in line for sign in SIGNS)]
