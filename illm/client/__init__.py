"""Example clients: each file runs on its own, and is meant to be copied from."""
