"""Upstreams that cost little and know what they served: nginx for fixed answers, a paced server for streams."""
