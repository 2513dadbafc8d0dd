"""The limit on open files: raised as far as it may be, and never lowered."""

import subprocess
import sys

import pytest

from illm.server import raise_descriptor_limit

resource = pytest.importorskip("resource", reason="only POSIX systems have such a limit")


def after(soft: str) -> tuple[list[int], int]:
    """Ask in a process of its own, as a hard limit cannot be raised again; returns both limits and what was said."""
    code = f"""
import resource
from illm.server import raise_descriptor_limit
hard = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, hard))
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE), hard)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    said, soft_now, hard_now, limit = map(int, done.stdout.split())
    return [soft_now, hard_now, limit], said


@pytest.mark.parametrize("soft", ["256", "hard"])
def test_the_soft_limit_becomes_the_hard_one(soft):
    (soft_now, hard_now, limit), said = after(soft)
    assert soft_now == hard_now == limit == said


def test_a_system_that_refuses_the_hard_limit_gets_what_it_grants(monkeypatch):
    """As macOS does, whose hard limit is infinite."""
    granted = []

    def setrlimit(which, limits):
        if limits[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        granted.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_descriptor_limit() == 10240
    assert granted == [(10240, resource.RLIM_INFINITY)]


@pytest.mark.parametrize(("soft", "error"), [(256, ValueError), (256, PermissionError), (20000, ValueError)])
def test_a_limit_that_cannot_be_raised_stays(monkeypatch, soft, error):
    def setrlimit(which, limits):
        assert limits[0] > soft or limits[0] == resource.RLIM_INFINITY
        raise error("no")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_descriptor_limit() == soft
