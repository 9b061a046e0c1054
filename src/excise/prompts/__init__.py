"""Where prompts come from (`read`) and how they are cleaned and dealt (`split`)."""

from excise.prompts.sources import read
from excise.prompts.splits import MINIMUM, split

__all__ = ["MINIMUM", "read", "split"]
