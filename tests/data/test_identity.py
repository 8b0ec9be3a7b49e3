"""A data set is what the SHA-256 of its arrays says, whatever the name of its class."""

import re

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from gendae import (
    MNIST,
    Arrays,
    Augmented,
    Binarised,
    Digits,
    FashionMNIST,
    FewLabels,
    Images,
    ImageSequences,
    LongDependencies,
    Multimodal,
    PartlyLabelled,
    Shards,
    TargetPropRule,
    load,
    save,
)
from gendae.commands.common import dataset_of
from gendae.commands.data import data_of
from gendae.data.base import facts_of
from gendae.data.identity import KNOWN, Identity, difference, recorded
from gendae.metrics import quality
from gendae.metrics.report import feature_network
from gendae.models.architectures import deep_autoencoder
from gendae.storage.archive import WholeFileIO
from gendae.storage.sealed import CheckpointError
from gendae.training.fit import say_which_data
from tests.commands.test_cli import gendae
from tests.conftest import small_stack
from tests.data.test_images import small_mnist

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "limit_val_batches": 0,
    "limit_train_batches": 1,
    "limit_test_batches": 1,
}


@pytest.fixture(scope="module")
def clothes(tmp_path_factory):
    """Another set in the format of MNIST's files."""
    folder = tmp_path_factory.mktemp("clothes") / "files"
    small_mnist(folder, suffix="")
    return MNIST(root=str(folder))


def trained(data, path=None, resume=None, epochs=1, stack=None):
    rule = TargetPropRule(stack or deep_autoencoder([data.split("train").x.shape[1], 4]))
    trainer = Trainer(max_epochs=epochs, **QUIET)
    trainer.fit(rule, datamodule=data, ckpt_path=resume)
    if path is not None:
        trainer.save_checkpoint(path)
    return rule.stack


def test_the_arrays_decide_which_set_is_mnist(mnist, clothes):
    assert mnist.identity.name == "MNIST"
    assert facts_of(mnist)["data"] == {"name": "MNIST", "sha256": next(iter(KNOWN))}
    assert clothes.identity.name == f"sha256:{clothes.identity.sha256[:12]}"
    assert facts_of(clothes)["data"]["name"] == clothes.identity.name

    network, _ = feature_network(clothes)  # digits are not recognised in clothes
    assert isinstance(network, quality.PixelFeatures)


def test_fashion_mnist_and_mnist_refuse_the_files_of_each_other(mnist, fashion):
    x = fashion.split("train").x
    assert fashion.identity.name == "FashionMNIST"
    assert abs(x.mean() - 0.2855) < 5e-5  # what is published of the first 50,000
    assert abs(x.std() - 0.3528) < 5e-5
    assert facts_of(fashion)["classes"][9] == "Ankle boot"

    for kind, other in ((MNIST, fashion), (FashionMNIST, mnist)):
        place = other.identity.place
        words = f"^{place} holds {other.identity.name}, not {kind.__name__}; read it as --data "
        with pytest.raises(ValueError, match=words):
            kind(root=place).split("test")


def test_a_model_of_clothes_is_not_opened_with_digits(mnist, clothes, tmp_path, capsys):
    path = tmp_path / "m.ckpt"
    stack = trained(clothes, path)
    assert dataset_of(load(path)) == clothes.identity.name
    assert torch.equal(data_of(stack, root=clothes.root).split("test").x, clothes.split("test").x)

    assert gendae("info", path) == 0
    assert clothes.identity.sha256 in capsys.readouterr().out

    assert gendae("inpaint", path, "--out", tmp_path / "x.png") == 2
    error = capsys.readouterr().err
    assert f"other data than the model was trained on: MNIST, not {dataset_of(stack)}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()

    for use in ("fit", "validate", "test"):
        run = getattr(Trainer(max_epochs=2, **QUIET), use)
        with pytest.raises(CheckpointError, match="m.ckpt: .* holds other data"):
            run(TargetPropRule(deep_autoencoder([784, 4])), datamodule=mnist, ckpt_path=path)

    again = trained(clothes, resume=path, epochs=2)
    assert again.facts["data"] == clothes.identity.fact()


def test_a_shipped_model_of_digits_is_not_opened_with_clothes(clothes, tmp_path, capsys):
    out = tmp_path / "x.png"
    command = ["inpaint", "mnist-variational-em", "--root", clothes.root, "--out", out]
    assert gendae(*command) == 2
    assert f"{clothes.identity.name}, not MNIST; name their folder" in capsys.readouterr().err


def test_a_fit_says_which_data_it_trains_on(clothes, mnist, digits, capsys):
    for data in (mnist, digits, clothes):
        say_which_data(data)
    printed = capsys.readouterr().err
    line = f"does not hold MNIST: the model remembers {clothes.identity.name}"
    assert line in printed
    assert printed.count("\n") == 1


# -- data of one's own ---------------------------------------------------------------------------


def images(folder, x, y):
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return Images(str(folder / "x.npy"), labels=str(folder / "y.npy"))


def shards(folder, x, y):
    images(folder, x, y)
    return Shards(str(folder / "x.npy"), labels=str(folder / "y.npy"))


def arrays(folder, x, y):
    images(folder, x, y)
    return Arrays({"image": str(folder / "x.npy"), "label": str(folder / "y.npy")})


def parts(folder, x, y):
    return Multimodal(images(folder, x, y), ["image", "label"], classes=3)


X = np.random.default_rng(0).random((60, 4, 4)).astype(np.float32)
Y = np.arange(60) % 3


@pytest.mark.parametrize("make", [images, shards, arrays, parts])
def test_other_arrays_in_the_same_files_are_noticed(tmp_path, make):
    data = make(tmp_path, X, Y)
    facts = facts_of(data)
    assert recorded(facts).sha256 == data.identity.sha256

    data.seed += 1  # how the examples are split and batched is another matter
    data.batch_size = 7
    assert difference(make(tmp_path, X.astype(np.float64), Y).identity, facts) is None

    pixel = X.copy()
    pixel[7, 2, 1] = 1 - pixel[7, 2, 1]
    for x, y in ((pixel, Y), (X, np.roll(Y, 1)), (X[::-1], Y[::-1]), (X[:-1], Y[:-1])):
        line = difference(make(tmp_path, x, y).identity, facts)
        assert "x.npy" in line
        assert "holds other data than the model was trained on" in line


def test_images_that_changed_since_training_are_refused(tmp_path, capsys):
    path = tmp_path / "m.ckpt"
    stack = trained(images(tmp_path, X, Y), path)
    assert data_of(stack).shape == (4, 4)

    changed = images(tmp_path, 1 - X, Y)
    assert gendae("evaluate", path, "--n", 5) == 2
    assert "x.npy holds other data" in capsys.readouterr().err
    assert data_of(stack, str(tmp_path / "x.npy")).shape == (4, 4)  # named, and so meant

    with pytest.raises(CheckpointError, match=r"x\.npy holds other data"):
        trained(changed, resume=path, epochs=2)

    (tmp_path / "others").mkdir()
    others = images(tmp_path / "others", 1 - X, Y)  # a model may be tested on others
    tester = Trainer(**QUIET)
    assert tester.test(TargetPropRule(deep_autoencoder([16, 4])), others, str(path), verbose=False)


DIGITS = Digits()
MADE = {
    "draw": (Binarised(DIGITS), Binarised(DIGITS, 1), "Binarised.draw=1 (was 0)"),
    "bits": (DIGITS, Binarised(DIGITS), "Binarised of Digits (was Digits)"),
    "pixels": (Binarised(DIGITS), DIGITS, "Digits (was Binarised of Digits)"),
    "shift": (
        Augmented(Binarised(DIGITS), shift=1),
        Augmented(Binarised(DIGITS), shift=2),
        "Augmented.shift=2 (was 1)",
    ),
    "bits below": (
        Augmented(Binarised(DIGITS, 1)),
        Augmented(Binarised(DIGITS, 2)),
        "Binarised.draw=2 (was 1)",
    ),
    "order": (
        ImageSequences(DIGITS, "row"),
        ImageSequences(DIGITS, "row", permute_seed=3),
        "ImageSequences.permute_seed=3 (was None)",
    ),
    "task": (
        LongDependencies("temporal-order", 10, 40),
        LongDependencies("temporal-order-3", 10, 40),
        "LongDependencies.task='temporal-order-3' (was 'temporal-order')",
    ),
    "labels": (DIGITS, PartlyLabelled(DIGITS, FewLabels(10)), None),
    "batches": (Binarised(DIGITS), Binarised(DIGITS, 0, 50, 7), None),
    "former": (Augmented(DIGITS), Augmented(DIGITS), None),
}


@pytest.mark.parametrize(("first", "then", "words"), MADE.values(), ids=MADE)
def test_a_training_goes_on_with_examples_made_as_before(tmp_path, capsys, first, then, words):
    path = tmp_path / "m.ckpt"
    trained(first, path)
    content = torch.load(path, weights_only=True)
    content["gendae"]["facts"]["dataset"].pop("zoom", None)  # as before there was one
    WholeFileIO().save_checkpoint(content, path)
    capsys.readouterr()

    if words is None:
        trained(then, resume=path, epochs=2)
        return

    with pytest.raises(CheckpointError, match=re.escape(f"as in its training: {words}")) as error:
        trained(then, resume=path, epochs=2)
    assert "\n" not in str(error.value)


def test_a_model_that_is_trained_again_remembers_its_last_data(tmp_path):
    stack = trained(images(tmp_path, X, Y))
    assert "data" in stack.facts

    save(stack, tmp_path / "m.safetensors")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(20, 16)), 10)
    again = TargetPropRule(load(tmp_path / "m.safetensors"))
    Trainer(max_epochs=1, **QUIET).fit(again, loader)
    assert not {"data", "dataset"} & set(again.stack.facts)

    assert "data" not in facts_of(Digits())


# -- files of earlier versions, and hostile ones --------------------------------------------------

OLD = {"type": "MNIST", "split_seed": None}


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"dataset": OLD}, "MNIST"),
        ({"dataset": {"type": "Multimodal", "source": OLD}}, "MNIST"),
        ({"dataset": {"type": "Digits"}}, None),
        ({}, None),
        ({"data": {"sha256": "0" * 64}, "dataset": OLD}, f"sha256:{'0' * 12}"),
        ({"data": {"name": "MNIST", "sha256": "0" * 64}}, f"sha256:{'0' * 12}"),
        *(({"data": value}, None) for value in (3, "MNIST", [], {"sha256": 3}, {"name": "MNIST"})),
        *(({"dataset": value}, None) for value in (3, "MNIST", [[]], {"source": 3}, {"type": []})),
    ],
)
def test_what_a_file_says_of_its_data(facts, name):
    found = recorded(facts)
    assert name == (None if found is None else found.name)
    assert (difference(Identity("1" * 64, "x"), facts) is None) == (name is None)


def test_the_shipped_models_are_of_mnist():
    stack = small_stack([784, 8])
    stack.facts = load("mnist-variational-em").facts
    assert dataset_of(stack) == recorded(stack.facts).name == "MNIST"
