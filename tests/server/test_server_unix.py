"""A Unix socket's path: taken from the dead, never from the living."""

import socket

import pytest

from illm.server.binding import bind, close


def test_a_path_where_another_server_listens_is_in_use(tmp_path):
    path = str(tmp_path / "s")
    first = bind(None, 0, path, 5)
    try:
        with pytest.raises(OSError, match="in use"):
            bind(None, 0, path, 5)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            first[0].accept()[0].close()
    finally:
        close(first)


def test_a_path_that_a_dead_server_left_is_taken(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    close(bind(None, 0, path, 5))
