"""The server gives its named contents to its own origin, and nothing to anyone else."""

import http.client
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from gendae import save
from gendae.commands.demo import demo
from gendae.demo.server import Server
from gendae.models.architectures import deep_autoencoder


def asked(server, path="/", method="GET", body=None, **headers):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, fields)
    answer = connection.getresponse()

    return answer.status, dict(answer.getheaders()), answer.read()


def test_contents_have_their_types(server):
    status, headers, content = asked(server)
    assert (status, content) == (200, b"<p>hello")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"

    status, headers, content = asked(server, "/late.js?again")
    assert (status, content) == (200, b"let b;")
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"

    status, headers, content = asked(server, method="HEAD")
    assert (status, content, headers["Content-Length"]) == (200, b"", "8")


@pytest.mark.parametrize(
    "path", ["/b.js", "/../pyproject.toml", "/%2e%2e/setup", "//etc/passwd", "/a.js/", "a.js", "*"]
)
def test_nothing_else_is_there(server, path):
    assert asked(server, path)[0] == 404


def test_only_this_machine_can_ask(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
    ],
)
def test_other_origins_are_refused(server, headers):
    assert asked(server, "/a.js", **headers)[0] == 403


def test_its_own_origin_and_links_to_it_are_answered(server):
    own = server.url.rstrip("/")
    assert asked(server, "/a.js", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert asked(server, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200


def test_bodies_and_other_methods_are_refused(server):
    assert asked(server, body=b"x" * 100)[0] == 413
    assert asked(server, Content_Length=str(10**12))[0] == 413
    assert asked(server, Transfer_Encoding="chunked")[0] == 413
    assert asked(server, method="POST")[0] == 501
    assert asked(server, method="DELETE")[0] == 501
    assert asked(server)[0] == 200


def broken():
    raise OSError("the file is gone")


def test_a_model_that_cannot_be_read_is_one_answer():
    with Server({"/": b"", "/m.js": broken}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status, _, content = asked(server, "/m.js")
        assert status == 500
        assert b"the file is gone" in content
        assert asked(server)[0] == 200
        server.shutdown()


def test_a_model_without_facts_is_shown_too(tmp_path):
    stack = deep_autoencoder([64, 32, 8])
    stack.prior.fit(torch.rand(20, 8))
    save(stack, tmp_path / "own.safetensors")
    assert len(demo(str(tmp_path / "own.safetensors"), out=str(tmp_path / "page"))) == 4


def test_a_port_in_use_is_one_line(server):
    with pytest.raises(OSError, match=r"^--port \d+ cannot be used \(.*\); name another, or 0"):
        demo("digits-variational-em", port=server.server_address[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70_000}, "--port"),
        ({"bits": 4}, "--bits"),
        ({"open": True}, "--open shows the page that is served"),
        ({"model": "mnist-dtp-tanh"}, "classifier"),
        ({"model": "mnist-joint-label"}, "several modalities"),
        ({"model": "toy-field"}, "toy-field is a model of points; the page draws images"),
        ({"model": "mnist-backstep"}, None),
    ],
)
def test_what_cannot_be_shown_is_one_line(options, message, tmp_path):
    model = options.pop("model", "digits-variational-em")
    if message is None:
        assert len(demo(model, out=str(tmp_path), **options)) == 4
        return

    with pytest.raises(ValueError, match=message):
        demo(model, out=str(tmp_path / "page"), **options)
    assert not (tmp_path / "page").exists()


def test_the_command_answers_until_it_is_interrupted():
    command = [sys.executable, "-m", "gendae.cli", "demo", "digits-variational-em", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        url = running.stdout.readline().split()[0]
        begun = time.monotonic()
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"<title>gendae" in answer.read()
        assert time.monotonic() - begun < 1.0

        with urllib.request.urlopen(f"{url}model-toy.js", timeout=60) as answer:
            assert answer.read().startswith(b"(globalThis.gendaeModels")

        running.terminate()


def test_the_url_names_the_port():
    with Server({}) as server:
        assert server.url == f"http://127.0.0.1:{server.server_address[1]}/"


def test_the_site_has_the_page_that_the_command_writes(tmp_path):
    demo(out=str(tmp_path), bits=8)
    site = Path(__file__).parents[2] / "docs" / "demo"
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    assert written == {file.name: file.read_bytes() for file in site.iterdir()}
