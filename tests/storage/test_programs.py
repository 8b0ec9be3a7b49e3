"""Parts of models as graphs: what other programs compute with them is what the model computes."""

import sys

import onnxruntime
import pytest
import torch

from gendae import load
from gendae.layers.affine import Affine
from gendae.layers.invertible import InvertiblePair
from gendae.layers.optimized import OptimizingPair
from gendae.models import architectures
from gendae.models.stack import Stack
from gendae.models.trees import Quadtree
from gendae.storage.programs import save_program
from tests.commands.test_cli import gendae, one_line

ROWS = (1, 5)  # neither is the number with which the graph was made


def deep(**options):
    return architectures.deep_autoencoder([8, 6, 4], **options)


def joint():
    modalities = {"image": {"sizes": [6, 5]}, "label": {"sizes": [3], "kind": "onehot"}}
    return architectures.joint_autoencoder(modalities, [4])


def classifier(**options):
    return architectures.deep_classifier([8, 6, 6], classes=3, **options)


RECURRENT = {"width": 2, "steps": 4, "state": 5, "classes": 3}
MODELS = {
    "stack": deep,
    "with labels": lambda: architectures.with_labels(deep(), 3),
    "joint": joint,
    "classifier": classifier,
    "bits": lambda: classifier(bits=[1]),
    "tanh of many rows": lambda: load("mnist-dtp-tanh"),
    "recurrent": lambda: architectures.recurrent_classifier(**RECURRENT),
    "masked": lambda: architectures.recurrent_classifier(
        **RECURRENT, masked=True, every_step=True
    ),
    "values": lambda: architectures.recurrent_classifier(**RECURRENT, predicts="values"),
    "teller": lambda: architectures.recurrent_autoencoder(2, 4, 5),
}


def expected(stack, what, x):
    """What the model itself says, of rows of a graph's input."""
    if what == "encode":
        return stack.encode(x)[1:]
    if what == "decode":
        return (stack.decode(x),)
    if hasattr(stack, "modalities"):
        return (stack.predict({"image": x}, "label"),)

    return (stack.predict(x),)


def outputs(stack, what):
    """Names of what a graph gives."""
    if what == "encode":
        return [f"h{level}" for level in range(1, stack.depth + 1)]
    if what == "decode":
        return ["x"]

    return ["value" if getattr(stack, "predicts", "") == "values" else "probability"]


CASES = [("stack", "encode"), ("joint", "predict")]
MORE = [
    ("recurrent", "predict"),
    ("stack", "decode"),
    ("with labels", "predict"),
    ("joint", "encode"),
    ("joint", "decode"),
    ("classifier", "encode"),
    ("classifier", "predict"),
    ("bits", "predict"),
    ("tanh of many rows", "predict"),
    ("masked", "predict"),
    ("values", "predict"),
    ("teller", "encode"),
    ("teller", "decode"),
]


@pytest.mark.parametrize(
    ("name", "what"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in MORE)],
)
def test_onnxruntime_computes_what_the_model_does(tmp_path, name, what):
    stack = MODELS[name]().eval()
    file = save_program(stack, tmp_path / "part.onnx", what)

    session = onnxruntime.InferenceSession(str(file))
    (taken,) = session.get_inputs()
    assert taken.name == ("h" if what == "decode" else "x")
    assert [given.name for given in session.get_outputs()] == outputs(stack, what)

    for rows in ROWS:
        x = torch.rand(rows, taken.shape[1])
        told = session.run(None, {taken.name: x.numpy()})
        for value, own in zip(told, expected(stack, what, x), strict=True):
            torch.testing.assert_close(torch.tensor(value), own, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(("name", "what"), [("stack", "decode"), ("masked", "predict")])
def test_torch_runs_the_same_graph(tmp_path, name, what):
    stack = MODELS[name]().eval()
    program = torch.export.load(save_program(stack, tmp_path / "part.pt2", what)).module()

    for rows in ROWS:
        x = torch.rand(rows, stack.sizes[-1 if what == "decode" else 0])
        for value, own in zip(program(x), expected(stack, what, x), strict=True):
            torch.testing.assert_close(value, own, atol=1e-6, rtol=0.0)


def test_exporting_leaves_the_model_as_it_is(tmp_path):
    stack = classifier()
    stack.double().train()
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    save_program(stack, tmp_path / "part.pt2", "predict")

    assert stack.training
    assert all(torch.equal(before[name], value) for name, value in stack.state_dict().items())


def of_pair(pair):
    return Stack(pair)


REFUSED = [
    (deep, "predict", "a Stack gives no labels; accepted: encode, decode"),
    (classifier, "decode", "the decoders of a classifier are feedback paths"),
    (lambda: classifier(stochastic=True), "predict", "units of this classifier are drawn"),
    (
        lambda: architectures.tree_classifier(Quadtree([4, 4], patch=2)),
        "encode",
        "pair 1 is a TreePair, which walks each example's own tree",
    ),
    (
        lambda: Stack(OptimizingPair(Affine(4, 3), Affine(3, 4))),
        "encode",
        "pair 1 is an OptimizingPair, whose code is found by steps",
    ),
    pytest.param(
        lambda: Stack(InvertiblePair(4, "svd")),
        "encode",
        "encode: .onnx cannot hold this model; a .pt2 may (No ONNX function",
        marks=pytest.mark.exhaustive,
    ),
    (deep, "sample", "what='sample' is unknown; accepted: encode, decode, predict"),
]


@pytest.mark.parametrize(("make", "what", "words"), REFUSED)
def test_what_no_graph_holds_is_refused_in_a_line(tmp_path, capfd, make, what, words):
    with pytest.raises(ValueError, match=".") as error:
        save_program(make(), tmp_path / "part.onnx", what)

    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_graph_of_a_shipped_model(tmp_path, capsys, monkeypatch):
    file = tmp_path / "d.pt2"
    options = ["digits-variational-em", "--out", file, "--what", "decode"]
    assert gendae("export", *options) == 0
    assert capsys.readouterr() == (f"exported: {file}\n", "")

    assert gendae("export", *options) == 2
    assert f"--out {file} exists already; name another" in one_line(capsys)

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert gendae("export", *options[:2], tmp_path / "d.onnx", *options[3:]) == 2
    assert 'an export to .onnx needs onnxscript; pip install "gendae[onnx]"' in one_line(capsys)
