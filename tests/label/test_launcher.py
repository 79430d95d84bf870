"""The command line of the server, called directly: nothing is served."""

import json
import os
import socket
from pathlib import Path

import pytest

from monai_fusenet.label.__main__ import MAIN, default_app, instructions, is_loopback, main, write_app
from monai_fusenet.label.clustering import read_conf

VARIABLE = "MONAI_LABEL_CORS_ORIGINS"


def test_conf_has_defaults_and_is_read():
    assert read_conf({}) == (None, 2, 0, "generic", "fusenet")
    given = {"cache_dir": "~/kept", "cache_gib": "0.5", "seed": "7", "preset": "skin", "method": "s3net"}
    assert read_conf(given) == (Path.home() / "kept", 0.5, 7, "skin", "s3net")


BAD_CONF = [
    ("seed", "abc", "seed must be a whole number of at least 0, got abc"),
    ("seed", "-1", "seed must be a whole number of at least 0, got -1"),
    ("seed", "1.5", "seed must be a whole number of at least 0, got 1.5"),
    ("cache_gib", "much", "cache_gib must be a finite number of at least 0, got much"),
    ("cache_gib", "nan", "cache_gib must be a finite number of at least 0, got nan"),
    ("cache_gib", "inf", "cache_gib must be a finite number of at least 0, got inf"),
    ("cache_gib", "-1", "cache_gib must be a finite number of at least 0, got -1"),
    ("cache_dir", "~no such user/x", "cache_dir must be a folder, got ~no such user/x"),
    ("preset", "nope", "preset must be one of generic, ct, lung, nuclei, skin, or a file .yaml, got nope"),
    ("cache_gb", "4", "--conf must be one of cache_dir, cache_gib, seed, preset, method, got cache_gb"),
    ("method", "nope", "method must be one of fusenet, feature_clustering, feature_clustering_paper, msformer, "),
]


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """Runs the command line, which must end before it serves; returns the message."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "studies").mkdir()

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["--studies", str(tmp_path / "studies"), *arguments])
        assert "serves" not in capsys.readouterr().out
        message = ended.value.code
        assert isinstance(message, str)  # which Python prints, with status 1
        assert message.startswith("error: ")
        assert "\n" not in message
        return message

    return run


@pytest.mark.parametrize(("name", "value", "message"), BAD_CONF)
def test_bad_conf_is_one_line_before_anything_is_served(refused, tmp_path, name, value, message):
    assert message in refused("--app", str(tmp_path / "own"), "--conf", name, value)
    assert not (tmp_path / "own").exists()


def test_an_app_of_somebody_else_is_not_overwritten(refused, tmp_path):
    app = tmp_path / "own"
    app.mkdir()
    (app / "main.py").write_text("class MyApp: ...\n")
    assert "main.py is another app's and stays as it is" in refused("--app", str(app))
    assert (app / "main.py").read_text() == "class MyApp: ...\n"


def test_an_app_of_ours_is_used_again(tmp_path):
    assert (write_app(tmp_path / "new") / "main.py").read_text() == MAIN
    assert write_app(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "main.py").write_text("from monai_fusenet.label.app import FuseNetApp\n")  # as README has it
    assert write_app(tmp_path) == tmp_path


@pytest.fixture
def origins(tmp_path, monkeypatch):
    """Runs the command line up to where it would serve, in an environment with or without the variable.

    Returns the origins that the server lets in, and those that its background processes read.
    """
    import monailabel.main
    import uvicorn
    from monailabel import config

    monkeypatch.chdir(tmp_path)  # no .env of somebody else
    monkeypatch.setattr("monai_fusenet.label.__main__.why_taken", lambda *_: "")  # nothing is served
    served = []

    def read(host, variable=None):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MONAI_LABEL")}
        monkeypatch.setattr(os, "environ", environment | ({} if variable is None else {VARIABLE: variable}))
        settings = config.Settings()
        for module in (config, monailabel.main):
            monkeypatch.setattr(module, "settings", settings)
        monkeypatch.setattr(uvicorn, "run", lambda *_, **__: served.append(settings.MONAI_LABEL_CORS_ORIGINS))
        arguments = ["--studies", str(tmp_path), "--app", str(tmp_path / "app"), "--host", host, "--port", "8123"]
        main(arguments)
        background = json.loads(json.dumps(config.Settings().model_dump()))  # as they do, which fails for URLs
        return served.pop(), background[VARIABLE]

    return read


def test_web_pages_of_its_own_origin_alone_read_its_answers(origins, capsys):
    own = ["http://127.0.0.1:8123", "http://localhost:8123"]
    assert origins("127.0.0.1") == (own, [])
    assert origins("192.168.0.7") == ([*own, "http://192.168.0.7:8123"], [])
    assert origins("127.0.0.1", '["https://viewer.example"]') == (["https://viewer.example"], [])
    assert origins("127.0.0.1", "[]") == ([], [])  # MONAI Label's default: all
    assert VARIABLE in capsys.readouterr().out


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_token(host):
    assert is_loopback(host)


def test_a_port_that_is_taken_is_told_at_once(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as told:
            main(["--studies", str(tmp_path), "--app", str(tmp_path / "app"), "--port", port])
    assert str(told.value) == (
        f"error: cannot listen on port {port} of 127.0.0.1 (Address already in use); choose another --port"
    )
    assert "annotate" not in capsys.readouterr().out


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "some-host", ""])
def test_other_addresses_need_one(host):
    assert not is_loopback(host)


def test_people_and_clients_are_told_the_token():
    text = instructions("studies", "0.0.0.0", 8000, "geheim")
    assert f"http://{socket.gethostname()}:8000/annotate/?token=geheim" in text
    assert f'MONAILabelClient("http://{socket.gethostname()}:8000/token/geheim")' in text
    assert "token" not in instructions("studies", "127.0.0.1", 8000)


def test_ohif_is_named_where_images_come_from_a_dicomweb_server():
    address = "http://127.0.0.1:8042/dicom-web"
    text = instructions(address, "127.0.0.1", 8000)
    assert "OHIF:      http://127.0.0.1:8000/ohif/; mode MONAI Label, server http://127.0.0.1:8000/\n" in text
    assert f"http://{socket.gethostname()}:8000/ohif/, once the page above was opened;" in instructions(
        address, "0.0.0.0", 8000, "geheim"
    )
    assert "OHIF" not in instructions("studies", "127.0.0.1", 8000)


def test_a_dicomweb_address_has_an_app_of_its_own():
    first, second = (default_app(f"http://{host}:8042/dicom-web") for host in ("a", "b"))
    assert first != second
    assert first == default_app("http://a:8042/dicom-web/")
    assert first.name.startswith("dicom-web-")
