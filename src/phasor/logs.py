"""Where messages go, and which of other libraries' nobody needs."""

import logging
import warnings

from phasor.settings import settings

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure_logging() -> None:
    """Send messages of the level that the environment wants to standard error."""
    logging.basicConfig(level=settings().log_level, format=_FORMAT)
    # Filters, not levels: these libraries set their level, and bm25s the lowest, when they are imported.
    logging.getLogger("bm25s").addFilter(_is_serious)
    logging.getLogger("DeepSpeed").addFilter(_is_no_choice_of_cpu)
    # peft asks transformers under the property's old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def _is_serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _is_no_choice_of_cpu(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Setting accelerator to CPU")
