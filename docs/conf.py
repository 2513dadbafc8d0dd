"""How Sphinx builds these pages: `tox run -e docs`."""

import importlib.metadata

project = "ILLM"
copyright = "the ILLM authors"
release = version = importlib.metadata.version("illm")
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "One OpenAI-compatible service in front of your models", "page_width": "64rem"}
