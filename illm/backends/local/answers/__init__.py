"""What a model writes, taken apart: what it thought, what it says, and which tools it calls.

Pure and without torch.  A parser is fed text as it comes, cut anywhere, and gives pieces; the same text gives the same
pieces, joined, however it was cut.  Nothing of a text is lost but what frames a call: its marks, and blanks around it.
"""

from illm.backends.local.answers.formats import FORMATS, Format, detect
from illm.backends.local.answers.plan import AnswerPlan
from illm.backends.local.answers.reader import AnswerReader
from illm.backends.local.answers.style import AnswerStyle

__all__ = ["FORMATS", "AnswerPlan", "AnswerReader", "AnswerStyle", "Format", "detect"]
