import importlib.util

import pytest
from label_tools import Server, draw_studies

REASON = "needs monailabel: pip install -e '.[label]'"
WITHOUT_IT = {
    "test_cache.py",
    "test_field.py",
    "test_guided.py",
    "test_label_maps.py",
    "test_requests.py",
    "test_views.py",
}


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("monailabel") is None:
        for item in items:
            if "tests/label/" in item.path.as_posix() and item.path.name not in WITHOUT_IT:
                item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    return draw_studies(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="session")
def server(studies, tmp_path_factory):
    with Server(studies, tmp_path_factory.mktemp("app")) as running:
        yield running
