"""Measurements of ILLM beside its peers."""
