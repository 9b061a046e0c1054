"""Which stored matrices write to the residual stream: found from the loaded model, then proved by a forward pass."""

from excise.architecture.blocks import decoder_blocks
from excise.architecture.verify import verify
from excise.architecture.writers import find_writers

__all__ = ["decoder_blocks", "find_writers", "verify"]
