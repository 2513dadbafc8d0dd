"""The suite is not part of the wheel: it is found in the checkout, behind everything that is installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
