import logging

import pytest

NAMES = ("", "monai_fusenet", "ignite")


def restored_logging():
    """Undoes what the bundle's logging.conf does to the loggers of this process."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


logging_as_before = pytest.fixture(autouse=True)(restored_logging)
logging_as_before_the_module = pytest.fixture(autouse=True, scope="module")(restored_logging)  # whose fixtures run, too
