"""Whole files of another model, rule, optimizer or program are refused before they are loaded."""

import json

import pytest
import torch
from safetensors.torch import save_file

from gendae import load
from gendae.models.architectures import deep_autoencoder
from gendae.registry import describe
from gendae.rules.backstep import BackStepRule
from gendae.rules.targetprop import TargetPropRule
from gendae.storage import model_file
from gendae.storage.archive import WholeFileIO
from gendae.storage.sealed import read
from tests.rules.test_base import trainer
from tests.storage import test_damage
from tests.storage.test_damage import SIZES, flip, refused, resume
from tests.training.resuming import FewDigits

good = test_damage.good


def change(name, edit):
    """A checkpoint with another tensor of this name."""
    return lambda c: c["state_dict"].update({name: edit(c["state_dict"][name])})


WEIGHT = "stack.pairs.0.f.weight"
ADAM = "exp_avg"


def optimizer(c):
    return c["optimizer_states"][0]


#: Edits of a checkpoint's content, what the error says, and whether only a resumed fit notices.
EDITS = {
    "a key removed": (lambda c: c["state_dict"].pop(WEIGHT), "missing", False),
    "a key added": (
        lambda c: c["state_dict"].update({"stack.extra": torch.zeros(1)}),
        "unexpected",
        False,
    ),
    "a shape changed": (change(WEIGHT, lambda w: w.T.contiguous()), "shape (64, 12)", False),
    "broadcastable": (change("stack.pairs.0.f.bias", lambda b: b[:1]), "shape (1,)", False),
    "integers": (change(WEIGHT, lambda w: w.long()), "torch.int64", False),
    "complex": (change(WEIGHT, lambda w: w.to(torch.complex64)), "complex64", False),
    "NaN": (change(WEIGHT, lambda w: w * float("nan")), "NaN or infinite weights in", False),
    "infinite": (change("stack.prior.mean", lambda m: m / 0), "NaN or infinite weights in", False),
    "a prior of another width": (change("stack.prior.mean", lambda m: m[:-1].clone()), "", False),
    "no tensor": (change(WEIGHT, lambda w: w.tolist()), "no tensors", False),
    "no weights": (lambda c: c.pop("state_dict"), "lacks state_dict", False),
    "no description": (lambda c: c["hyper_parameters"].pop("stack"), "", False),
    "a list as description": (
        lambda c: c.update(hyper_parameters=[1]),
        "lacks hyper_parameters",
        False,
    ),
    "a foreign program": (lambda c: c.pop("gendae"), "not one that gendae wrote", False),
    "facts of another kind": (lambda c: c["gendae"].update(facts=3), "facts", False),
    "an unknown class": (
        lambda c: c["hyper_parameters"]["stack"].update(type="Transformer"),
        "",
        False,
    ),
    "a class that is no stack": (
        lambda c: c["hyper_parameters"].update(stack={"type": "RelativeNoise", "scale": 1.0}),
        "",
        False,
    ),
    "a layer less": (lambda c: c["hyper_parameters"]["stack"]["pairs"].pop(), "", False),
    "half precision": (change(WEIGHT, lambda w: w.half()), "float16", True),
    "another activation": (
        lambda c: c["hyper_parameters"]["stack"]["pairs"][0]["f"].update(activation="linear"),
        "stack.pairs.0.f.activation is 'linear'",
        True,
    ),
    "of another rule": (
        lambda c: c["gendae"].update(rule="KLRule"),
        "that KLRule trained, not TargetPropRule",
        True,
    ),
    "weights alone": (lambda c: c.pop("optimizer_states"), "no training that could go on", True),
    "no counters": (lambda c: c.pop("loops"), "no training that could go on", True),
    "two optimizers": (lambda c: c["optimizer_states"].append(optimizer(c)), "2 optimizers", True),
    "no optimizer": (lambda c: c["optimizer_states"].clear(), "0 optimizers", True),
    "a group less": (lambda c: optimizer(c)["param_groups"].pop(), "another optimizer", True),
    "a parameter less": (
        lambda c: optimizer(c)["param_groups"][0]["params"].pop(),
        "another optimizer",
        True,
    ),
    "another optimizer": (
        lambda c: [g.pop("betas") for g in optimizer(c)["param_groups"]],
        "another optimizer",
        True,
    ),
    "groups in another order": (
        lambda c: optimizer(c)["param_groups"].reverse(),
        "another optimizer",
        True,
    ),
    "a state of another shape": (
        lambda c: optimizer(c)["state"][0].update(exp_avg=torch.zeros(3)),
        "does not fit",
        True,
    ),
    "a state too many": (
        lambda c: optimizer(c)["state"].update({99: optimizer(c)["state"][0]}),
        "does not fit",
        True,
    ),
    "NaN in the optimizer": (
        lambda c: optimizer(c)["state"][0][ADAM].fill_(float("nan")),
        "optimizer states",
        True,
    ),
    "an infinite rate": (
        lambda c: optimizer(c)["param_groups"][0].update(lr=float("inf")),
        "rates",
        True,
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_whole_file_of_another_model(good, tmp_path, kind):
    edit, words, only_resumed = EDITS[kind]
    content = read(good / "m.ckpt")
    path = tmp_path / "m.ckpt"
    edit(content)
    WholeFileIO().save_checkpoint(content, path)

    refused(resume, path, words)

    if only_resumed:
        load(path)
    else:
        refused(load, path, words)


@pytest.mark.parametrize(
    ("rule", "sizes", "words"),
    [
        (TargetPropRule, [64, 12], "another architecture"),
        (TargetPropRule, [64, 12, 6, 4], "another architecture"),
        (TargetPropRule, [64, 13, 6], "another architecture"),
        (TargetPropRule, [32, 12, 6], "another architecture"),
        (BackStepRule, SIZES, "not BackStepRule"),
    ],
)
def test_other_widths_depths_and_rules_are_refused(good, rule, sizes, words):
    refused(lambda path: resume(path, rule(deep_autoencoder(sizes))), good / "m.ckpt", words)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_validation_and_test_check_as_well(good, tmp_path, command):
    path = tmp_path / "m.ckpt"
    path.write_bytes(flip((good / "m.ckpt").read_bytes(), 5000))
    rule = TargetPropRule(deep_autoencoder(SIZES))

    refused(lambda p: getattr(trainer(), command)(rule, FewDigits(), ckpt_path=str(p)), path)

    wrong = BackStepRule(deep_autoencoder(SIZES))
    refused(
        lambda p: getattr(trainer(), command)(wrong, FewDigits(), ckpt_path=str(p)),
        good / "m.ckpt",
    )


def other_width(content, tensors):
    content["stack"]["pairs"][0]["f"]["in_features"] = 65
    content["stack"]["pairs"][0]["g"]["out_features"] = 65


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda c, t: t.pop("prior.mean"), "prior.mean missing"),
        (lambda c, t: t.pop("pairs.0.f.bias"), "missing"),
        (lambda c, t: t.update(extra=torch.zeros(2)), "unexpected"),
        (lambda c, t: c.update(facts=[]), "facts"),
        (lambda c, t: c.pop("settings"), "settings"),
        (lambda c, t: c["stack"]["pairs"].pop(), "another architecture"),
        (other_width, "another architecture"),
        (lambda c, t: c["stack"].update(type="Transformer"), "unknown type 'Transformer'"),
        (lambda c, t: t.update({"prior.mean": t["prior.mean"] / 0}), "NaN or infinite weights"),
        (lambda c, t: t["pairs.0.f.weight"].fill_(torch.nan), "weights in pairs.0.f.weight"),
    ],
    ids=range(10),
)
def test_a_whole_safetensors_of_another_model(good, tmp_path, edit, words):
    content, tensors = model_file.read_checked(good / "m.safetensors", model_file.FORMAT)
    edit(content, tensors)

    refused(
        load,
        model_file.write_checked(tmp_path / "m.safetensors", model_file.FORMAT, content, tensors),
        words,
    )


def test_files_of_earlier_versions_are_read_without_the_checksum_of_their_description(tmp_path):
    stack = deep_autoencoder([8, 4])
    tensors = {k: v for k, v in stack.state_dict().items() if v.numel()}
    text = json.dumps(
        {
            "stack": describe(stack),
            "settings": {},
            "facts": {},
            "sha256": model_file.digest(tensors),
        }
    )
    path = tmp_path / "m.safetensors"
    metadata = {"format": model_file.FORMAT, "gendae": text}
    save_file(tensors, path, metadata)

    assert load(path).sizes == [8, 4]

    # but not one whose checksum has lost its name, nor one without any description
    save_file(tensors, path, {**metadata, "sha257": "0"})
    refused(load, path, "description")
    save_file(tensors, path)
    refused(load, path, "not one that gendae wrote")
