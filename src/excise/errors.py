"""Every error that Excise raises on purpose, in one tree.

    ExciseError                 exit code 1
    ├── SettingsError           2   an unknown or impossible setting
    ├── PromptError             3   prompts missing, too few, duplicate, or sides that do not differ
    ├── ModelError              4   a folder or hub id that cannot be loaded
    │   ├── ArchitectureError   4   writers not found, or an edit that cannot be proved
    │   └── CheckpointError     4   a stored file that is damaged, hostile, or of an unknown format
    ├── BehaviourError          5   nothing to remove, or a wanted rate out of reach
    ├── StoreError              6   a run directory that exists, is missing, or does not fit
    └── SpaceError              7   not enough disk or memory

A message says where, what was expected, what was found, and what to do about it.
"""


class ExciseError(Exception):
    """Base of all; `exit_code` is what the command line answers with."""

    exit_code = 1


class SettingsError(ExciseError):
    """A setting that is unknown, misspelt or out of range."""

    exit_code = 2


class PromptError(ExciseError):
    """A prompt source that cannot be read, or prompts that cannot serve."""

    exit_code = 3


class ModelError(ExciseError):
    """A model that cannot be found or loaded as asked."""

    exit_code = 4


class ArchitectureError(ModelError):
    """Writers to the residual stream that were not found, or whose edit is not exact."""


class CheckpointError(ModelError):
    """Stored tensors that are damaged, hostile, or in a format that cannot be edited."""


class BehaviourError(ExciseError):
    """The model does not show the behaviour, or no edit within the budget takes it out."""

    exit_code = 5


class StoreError(ExciseError):
    """A run directory that is in the way, missing, locked, or from other settings."""

    exit_code = 6


class SpaceError(ExciseError):
    """Disk or memory ran out; nothing half-written was left."""

    exit_code = 7
