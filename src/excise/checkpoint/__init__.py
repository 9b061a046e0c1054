"""Stored checkpoints: read headers, write edited copies, recipes and adapters. Never loads a model."""

from excise.checkpoint.adapters import lora_pairs, write_lora
from excise.checkpoint.files import Progress
from excise.checkpoint.header import Entry, Shard
from excise.checkpoint.index import Index, fingerprint, open_index
from excise.checkpoint.recipe import load_recipe, save_recipe
from excise.checkpoint.stream import WriteResult, write_edited

__all__ = [
    "Entry",
    "Index",
    "Progress",
    "Shard",
    "WriteResult",
    "fingerprint",
    "load_recipe",
    "lora_pairs",
    "open_index",
    "save_recipe",
    "write_edited",
    "write_lora",
]
