"""Models on the hub: a folder to upload, and an endpoint of our own that serves one."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from PIL import Image

from gendae import generate, load, save
from gendae.models.architectures import deep_autoencoder, deep_classifier
from gendae.storage import model_file
from tests.commands.test_cli import gendae, model, one_line  # noqa: F401 - a fixture

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """What hf_hub_download asks of an endpoint, for the files of `served`."""

    served: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        body = self.answer()
        self.asked.append(self.path)
        self.wfile.write(body)

    def answer(self):
        user, name, _, revision, file = self.path.strip("/").split("/", 4)
        key = f"{user}/{name}@{revision}/{file}"
        error = "RepoNotFound"
        if any(known.startswith(f"{user}/{name}@") for known in self.served):
            error = "EntryNotFound" if revision in COMMITS else "RevisionNotFound"

        body = self.served.get(key, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        if body:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMITS[revision])
        else:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        return body

    def log_message(self, *_):
        """Nothing: the test's output is its own."""


LOADS = """
import json, os, sys
import gendae
from huggingface_hub import constants
told = {}
for name in sys.argv[1:]:
    constants.HF_HUB_OFFLINE = name.startswith("offline ")
    try:
        stack = gendae.load(name.removeprefix("offline "))
        told[name] = stack.pairs[0].f.weight.flatten()[:3].tolist()
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
NAMES = [
    "hf://user/digits",
    "hf://user/digits@v1",
    "offline hf://user/digits",
    "offline hf://user/other",
    "hf://user/digits@v2",
    "hf://user/pickles",
    "hf://user/nothing",
    "hf://user/foreign",
    "hf://digits",
    "hf://user/../digits",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What loading each of NAMES gives, where the hub has two revisions of one small model."""
    folder = tmp_path_factory.mktemp("hub")
    stacks = {revision: deep_autoencoder([6, 3]) for revision in COMMITS}
    for revision, stack in stacks.items():
        file = save(stack, folder / f"{revision}.safetensors")
        Hub.served[f"user/digits@{revision}/model.safetensors"] = file.read_bytes()
    Hub.served["user/pickles@main/model.pt"] = b"a pickle"
    Hub.served["user/foreign@main/model.safetensors"] = b"what is no safetensors file"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    own = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOADS, *NAMES],
            capture_output=True,
            text=True,
            env=os.environ | own,
            check=True,
        )
    finally:
        server.shutdown()
        server.server_close()

    return stacks, json.loads(done.stdout.splitlines()[-1])


def first_weights(stack):
    return stack.pairs[0].f.weight.flatten()[:3].tolist()


def test_a_model_of_the_hub_is_that_of_its_revision(served):
    stacks, told = served
    assert told["hf://user/digits"] == first_weights(stacks["main"])
    assert told["hf://user/digits@v1"] == first_weights(stacks["v1"])
    assert told["offline hf://user/digits"] == first_weights(stacks["main"])
    assert first_weights(stacks["main"]) != first_weights(stacks["v1"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (NAMES[3], "FileNotFoundError: hf://user/other: the hub is out of reach, and no copy"),
        (NAMES[4], "FileNotFoundError: hf://user/digits@v2: there is no revision 'v2'"),
        (NAMES[5], "FileNotFoundError: hf://user/pickles: it holds no model.safetensors"),
        (NAMES[6], "FileNotFoundError: hf://user/nothing: there is no such model, or it is not"),
        (NAMES[7], "model.safetensors: damaged, truncated or not a safetensors file"),
        (NAMES[8], "ValueError: hf://digits: hf://USER/MODEL or hf://USER/MODEL@REVISION is"),
        (NAMES[9], "ValueError: hf://user/../digits: hf://USER/MODEL"),
    ],
)
def test_what_the_hub_has_not_is_one_line(served, name, words):
    _, told = served
    assert words in told[name]
    assert "\n" not in told[name]


def test_nothing_but_safetensors_is_asked_for(served):
    assert Hub.asked
    assert all(path.endswith("/model.safetensors") for path in Hub.asked)


def test_the_extra_is_named(tmp_path, capsys, monkeypatch, model):  # noqa: F811
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert gendae("info", "hf://user/digits") == 2
    assert 'needs huggingface_hub; pip install "gendae[hub]"' in one_line(capsys)

    assert gendae("export", model, "--hub", tmp_path / "hub") == 2
    assert 'needs huggingface_hub; pip install "gendae[hub]"' in one_line(capsys)
    assert not (tmp_path / "hub").exists()


# -- the folder -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, model):  # noqa: F811
    stack = load(model)
    stack.facts["metrics"] = {"parzen_ll": 3.5}
    stack.facts["rule"] = "A|B"
    stack.facts["command"] = "gendae fit --config digits-kl"
    save(stack, model)

    assert gendae("export", model, "--hub", tmp_path / "mine", "--license", "mit") == 0
    return tmp_path / "mine"


def test_a_folder_for_the_hub_is_a_model(folder, model):  # noqa: F811
    stack = load(model)
    again = load(folder)

    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "samples.png",
    ]
    assert torch.equal(generate(stack, 3, seed=1), generate(again, 3, seed=1))
    assert model_file.locate(folder) == folder / "model.safetensors"

    config = json.loads((folder / "config.json").read_text())
    content, _ = model_file.read_checked(Path(model), model_file.FORMAT)
    assert config == {"library_name": "gendae", "format": "gendae/1", **content}


def test_the_card_says_what_the_file_knows(folder):
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(header)

    assert (metadata["license"], metadata["library_name"]) == ("mit", "gendae")
    assert "target-propagation" in metadata["tags"]
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "parzen_ll", "value": 3.5}]
    assert result["dataset"]["name"] == "Digits"

    assert "# mine" in text
    assert 'gendae.load("hf://USER/mine")' in text
    assert "| rule | A\\|B |" in text
    assert "| layers | 64 - 20 softplus - 8 sigmoid |" in text
    with Image.open(folder / "samples.png") as picture:
        assert picture.size == (7 * 91, 7 * 91)  # ten times ten images of 8 x 8


FILES = {
    "type": "Images",
    "path": ["/home/ann/secret-1.png", "secret-2.png"],
    "labels": "C:\\ann\\names.csv",
    "root": "/home/ann",
}
JOINT = {"type": "ModalityFiles", "files": {"x": "/home/ann/x.npy"}, "parts": ["x"]}


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        (
            {"dataset": {"type": "Images", "path": "/home/ann/photos/", "shape": [8, 8]}},
            {"dataset": {"type": "Images", "path": "photos", "shape": [8, 8]}},
        ),
        (
            {"dataset": {"type": "Labelled", "source": FILES}},
            {"dataset": {"type": "Labelled", "source": {"type": "Images", "labels": "names.csv"}}},
        ),
        ({"dataset": JOINT}, {"dataset": {**JOINT, "files": {"x": "x.npy"}}}),
        ({"command": "gendae fit --config ~/ann/secret/c.yaml --data.path /home/ann"}, {}),
        ({"command": "gendae fit --data.path '[a.png]'", "dataset": FILES}, None),
        ({"pretrained": "/home/ann/runs/best.ckpt"}, {"pretrained": "best.ckpt"}),
        ({"pretrained": "hf://user/model"}, {"pretrained": "hf://user/model"}),
        ({"classes": ["and/or", "/"], "kind": "image"}, {"classes": ["and/or", "/"]}),
    ],
)
def test_no_folder_of_this_machine_is_shared(tmp_path, model, given, shared):  # noqa: F811
    stack = load(model)
    stack.facts = {"shape": [8, 8], **given}
    save(stack, model)
    assert gendae("export", model, "--hub", tmp_path / "hub") == 0

    facts = load(tmp_path / "hub").facts
    if shared is not None:
        assert {name: facts.get(name) for name in shared} == shared
        assert ("command" in facts) == ("command" in shared)
    for file in (tmp_path / "hub").iterdir():
        content = file.read_bytes()
        assert not any(private in content for private in (b"ann/", b"ann\\", b"secret", b"a.png"))
    assert load(model).facts == stack.facts


def test_a_classifier_has_a_card_without_samples(tmp_path):
    file = save(deep_classifier([8, 4], classes=3), tmp_path / "c.safetensors")
    assert gendae("export", file, "--hub", tmp_path / "hub") == 0

    text = (tmp_path / "hub/README.md").read_text()
    assert "license" not in text
    assert "image" not in text.split("---\n", 2)[2].split("```")[0]
    assert "probability = model.predict(x)" in text
    assert not (tmp_path / "hub/samples.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "needed: --out FILE, or --hub FOLDER"),
        (["--out", "x.safetensors", "--hub", "y"], "needed: --out FILE, or --hub FOLDER"),
        (["--hub", "."], "--hub . exists already; name another"),
        (["--hub", "y", "--license", "all rights"], "--license 'all rights': one word is needed"),
        (["--hub", "y", "--what", "encode"], "--what encode: a part is written as .onnx or .pt2"),
        (["--out", "y.onnx"], "name it: --what, one of encode, decode, predict"),
        (["--out", "y.onnx", "--what", "encod"], "did you mean encode?"),
        (["--out", "y.pt2", "--what", "encode", "--half"], "--half is of weights"),
        (["--out", "y.pt2", "--what", "encode", "--choose-prior"], "--choose-prior is of weights"),
        (["--hub", "new/y"], "GaussianPrior is not fitted"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, model, options, words):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    if "not fitted" in words:
        save(deep_autoencoder([64, 8]), model)
    before = sorted(tmp_path.iterdir())
    assert gendae("export", model, *options) == 2
    assert words in one_line(capsys)
    assert sorted(tmp_path.iterdir()) == before
