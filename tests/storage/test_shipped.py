"""Every shipped model is what the manifest says, and draws digits at once."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from gendae import complete, generate, inpaint, load, named_mask
from gendae.completion.completer import Completer
from gendae.data.patches import Patches
from gendae.metrics.fidelity import psnr
from gendae.models.joint import JointStack, kind_of
from gendae.storage.model_file import shipped

FOLDER = Path(__file__).parents[2] / "checkpoints"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


def test_manifest_readme_and_folder_agree():
    names = sorted(e["name"] for e in MANIFEST)
    assert names == sorted(f.stem for f in FOLDER.glob("*.safetensors")) == shipped()
    assert {"mnist-variational-em", "digits-variational-em"} <= set(names)

    readme = (FOLDER / "README.md").read_text()
    for entry in MANIFEST:
        assert entry["name"] in readme
        assert entry["sha256"] in readme

    with pytest.raises(FileNotFoundError, match="no model 'no-such-model'") as error:
        load("no-such-model")
    for name in names:
        assert name in str(error.value)


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda e: e["name"])
def test_shipped_model(entry):
    path = FOLDER / entry["file"]
    assert path.stat().st_size < 8_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]

    stack = load(entry["name"])
    assert stack.facts["seed"] == entry["seed"]
    assert stack.facts["command"] == entry["command"]
    assert (FOLDER.parent / entry["config"]).is_file()

    if entry["kind"] in ("classifier", "filling model") or entry["rule"] == "BackStepRule":
        return  # made for labels, for what is missing, or for its features: see below

    x = generate(stack, 64, seed=0)
    assert x.shape == (64, stack.sizes[0])
    if kind_of(stack) == "image":
        assert 0.0 <= x.min() <= x.max() <= 1.0
    assert x.std(0).mean() > 0.1, "samples must differ from one another"


@pytest.mark.parametrize(
    "entry", [e for e in MANIFEST if "test_error" in e["metrics"]], ids=lambda e: e["name"]
)
def test_shipped_classifier_has_the_error_it_claims(entry, request):
    network = load(entry["name"])
    data = request.getfixturevalue({"FashionMNIST": "fashion"}.get(entry["dataset"], "mnist"))
    x, y, _ = data.split("test")

    if isinstance(network, JointStack):
        p = network.predict({"image": x[:2000]}, "label")
    else:
        p = network.predict(x[:2000])

    error = (p.argmax(1) != y[:2000]).float().mean().item()
    # The first 2,000 digits are harder than the rest.
    assert abs(error - entry["metrics"]["test_error"]) < 0.02


def test_shipped_joint_model_draws_the_class_asked_for_and_completes_halves(mnist):
    joint = load("mnist-joint-label")
    x, y, _ = mnist.split("test")
    classes = torch.arange(10).repeat_interleave(10)
    chain = Completer.mcmc(5, begin="prior")
    samples = complete(joint, {"label": classes}, completer=chain, seed=0).values["image"]

    assert (joint.predict({"image": samples}, "label").argmax(1) == classes).float().mean() > 0.95
    assert samples.view(10, 10, -1).std(1).mean() > 0.1

    left = named_mask("left", (28, 28))
    completed = complete(joint, {"image": x[:200]}, {"image": left}, seed=0).values

    assert torch.equal(completed["image"][:, left], x[:200][:, left])
    assert (completed["label"].argmax(1) == y[:200]).float().mean() > 0.7


def test_shipped_auto_encoder_reconstructs_digits(mnist):
    """Squared error of test images far below that of the mean image, 52."""
    stack = load("mnist-backstep")
    x = mnist.split("test").x[:500]
    assert (stack.reconstruct(x) - x).square().sum(1).mean() < 12


def test_shipped_patches_are_filled_in_far_better_than_by_neighbours():
    """The photograph of its test; 22.6 and 20.4 dB are those of 5 neighbours, docs/results.md."""
    stack = load("patches-filling")
    x = Patches().split("test").x[:200]
    known = next(e["metrics"] for e in MANIFEST if e["name"] == "patches-filling")

    for mask in ("random", "left"):
        given = named_mask(mask, (3, 16, 16), 0)
        filled = inpaint(stack, x, given, seed=0)
        assert torch.equal(filled[:, given], x[:, given])
        assert psnr(filled, x, given).mean() > known[f"psnr_{mask}"] - 3.0 > 25.0


def test_shipped_mnist_samples_are_digits_of_many_classes(mnist):
    """Scored as in docs/results.md, with 1,000 samples: far above ancestral samples."""
    from sklearn.neighbors import KNeighborsClassifier

    from gendae.metrics.parzen import choose_sigma
    from gendae.priors.parzen import parzen_log_prob

    stack = load("mnist-variational-em")
    x = generate(stack, 1000, seed=0)
    valid = mnist.split("valid").x[:1000]

    assert parzen_log_prob(valid, x, choose_sigma(valid, x)).mean() > 150

    train = mnist.split("train")
    classifier = KNeighborsClassifier(3).fit(train.x[:5000].numpy(), train.y[:5000].numpy())
    labels = classifier.predict(x.numpy())
    shares = [(labels == digit).mean() for digit in range(10)]

    assert min(shares) > 0
    assert max(shares) < 0.3
