import pytest
from bundle_tools import restored_logging

logging_as_before = pytest.fixture(autouse=True)(restored_logging)
logging_as_before_the_module = pytest.fixture(autouse=True, scope="module")(restored_logging)  # whose fixtures run, too
