"""What can go wrong because of a user's input or environment: one family, one message each.

A message says what happened, where, which value was involved and what to do next. The command line prints it
alone and exits with its `exit_code`; any other exception is a defect of ours and exits with 1.
"""


class PhasorError(Exception):
    """Root of every error that a user can mend.

    Attributes:
        exit_code: of the command line.
    """

    exit_code = 2


class RecipeError(PhasorError):
    """The recipe is wrong: unknown key, value out of bounds, contradicting settings."""


class DataError(PhasorError):
    """A source, table or row cannot be used."""


class ArtifactError(PhasorError):
    """An input of a phase is missing, incomplete or does not match its digest."""


class ModelError(PhasorError):
    """A backbone, adapter or tokenizer cannot be loaded or does not fit the others."""


class TrainingError(PhasorError):
    """Training cannot go on, for example because the loss is no longer a number."""


class EndpointError(PhasorError):
    """A remote service did not give a usable answer within the allowed tries."""


class StorageError(PhasorError):
    """A file system or object store refused to read or write."""


class OutOfMemory(PhasorError):
    """A model, or what it computes at once, does not fit into memory."""


class GateFailed(PhasorError):
    """A model scored below what the gate allows."""


def first_line(error: Exception) -> str:
    """The first line of another library's message, or the name of the error if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
