import logging

import pytest

NAMES = ("", "monai_fusenet", "ignite")


@pytest.fixture(autouse=True)
def logging_as_before():
    """Undoes what the bundle's logging.conf does to the loggers of this process."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
