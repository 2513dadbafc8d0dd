"""Servers somewhere else: vLLM, SGLang, TGI, Ollama, and anything that speaks like one of them.

`upstream` is the seam between I/O and dialects: `connection` and `workers` move bytes and know no dialect; each dialect
file is pure and knows no I/O.
"""
