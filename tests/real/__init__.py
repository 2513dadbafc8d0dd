"""Real servers to test against, started on loopback with the packaged models.

    python -m tests.real.llamacpp --python SERVER_VENV/bin/python -- pytest tests/test_conditional_backends.py

starts the server, waits until it is well, runs the command with the server's address in its environment, stops the
server and returns the command's status.  Without a command it prints the address and serves until interrupted.  The
server lives in an environment of its own: what it needs rarely agrees with what we need, or with another server.
"""
