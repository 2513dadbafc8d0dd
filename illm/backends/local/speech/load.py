"""From a directory to a transcriber: its files say which engine."""

import logging
from pathlib import Path
from typing import Literal

from illm.backends.local.conversion import Progress
from illm.backends.local.load import loading_failures, pick_dtype, set_threads
from illm.backends.local.quiet import quiet
from illm.backends.local.sources import Source, fetch, read_json
from illm.backends.local.speech.transcriber import Transcriber
from illm.errors import GatewayError, Kind
