"""The feature network: its file, that it is frozen, and that it knows digits."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from gendae import load_feature_classifier, save
from gendae.metrics.features import (
    CLASSIFIERS,
    FORMAT,
    ClassifierTraining,
    FeatureClassifier,
    save_feature_classifier,
    shipped_feature_classifiers,
)
from gendae.metrics.quality import frechet_distance, in_batches
from gendae.metrics.report import feature_network
from gendae.storage.model_file import shipped
from gendae.storage.sealed import CheckpointError
from tests.conftest import small_stack
from tests.rules.test_base import trainer

ROOT = Path(__file__).parents[2]


def write(path):
    network = FeatureClassifier([8, 8], [2, 3], 5)
    return save_feature_classifier(network, path, {"seed": 1})


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "c.safetensors")


def test_a_saved_network_is_the_same_network(file):
    network = load_feature_classifier(file)
    original = FeatureClassifier([8, 8], [2, 3], 5)
    x = torch.rand(4, 64)
    original.load_state_dict(network.state_dict())

    assert torch.equal(network(x), original(x))
    assert (network.shape, network.channels, network.width) == ([8, 8], [2, 3], 5)
    assert network.facts == {"seed": 1}
    assert load_feature_classifier(str(file)).features(x).shape == (4, 5)


def test_a_loaded_network_is_frozen_and_its_mode_changes_nothing(file):
    network = load_feature_classifier(file)
    x = torch.rand(3, 64)
    before = network(x)
    torch.nn.Sequential(network).train()

    assert not any(m.training for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(network(x), before)

    free = FeatureClassifier([8, 8])
    assert free.train().training
    assert torch.equal(free.train()(x), free.eval()(x))


def test_normalising_scales_features_and_leaves_logits():
    network = FeatureClassifier([8, 8]).double()
    x = torch.rand(230, 64).double()
    logits = network(x)
    features = network.features(x)
    scale = network.normalise(x)

    assert torch.allclose(network(x), logits)
    assert torch.allclose(network.features(x) * scale, features)
    assert network.features(x).square().mean().item() == pytest.approx(1.0)


def test_channels_of_coloured_images_come_first():
    """Weights of equal channels sum to those of one grey image."""
    colour = FeatureClassifier([3, 8, 8]).double()
    grey = FeatureClassifier([8, 8]).double()
    weights = colour.state_dict()
    summed = weights["body.0.weight"].sum(1, keepdim=True)
    grey.load_state_dict({**weights, "body.0.weight": summed})

    x = torch.rand(4, 64).double()
    assert torch.allclose(colour(x.repeat(1, 3)), grey(x))
    red = torch.cat([x, torch.zeros(4, 128)], 1)
    assert torch.allclose(colour(red), colour(red.view(4, 3, 8, 8)))


def damaged(damage):
    """A writer of a file whose bytes are then damaged."""

    def write_damaged(path):
        write(path)
        path.write_bytes(damage(path.read_bytes()))

    return write_damaged


def without_description(path):
    save_file({"a": torch.zeros(1)}, path, {"format": FORMAT, "gendae": "{"})


def another_architecture(path):
    network = FeatureClassifier([8, 8], [2, 3], 5)
    network.width = 6  # what the description will say
    save_feature_classifier(network, path, {})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (damaged(lambda data: data[:200]), "damaged"),
        (damaged(lambda data: data[:-8] + bytes(8)), "checksum"),
        (damaged(lambda data: b"no"), "damaged"),
        (
            lambda path: save(small_stack(), path),
            "not one that gendae wrote as gendae-classifier",
        ),
        (without_description, "description"),
        (another_architecture, "another architecture"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, make, words):
    path = tmp_path / "c.safetensors"
    make(path)

    with pytest.raises(CheckpointError, match=words):
        load_feature_classifier(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FeatureClassifier([3, 8]), "4 x 4"),
        (lambda: FeatureClassifier([2, 8, 8]), "height and width, or 3 and these in colour"),
        (lambda: FeatureClassifier(channels=[3]), "two conv"),
        (lambda: FeatureClassifier(width=0), "width=0"),
        (lambda: FeatureClassifier(classes=0), "classes=0"),
        (lambda: FeatureClassifier()(torch.rand(2, 64)), "784"),
        (lambda: ClassifierTraining(FeatureClassifier(), lr=0.0), "lr=0.0"),
        (lambda: save_feature_classifier(FeatureClassifier(), "c.pt", {}), "safetensors"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_training_learns_the_embedded_digits(digits):
    training = ClassifierTraining(FeatureClassifier([8, 8], [8, 16], 32), lr=5e-3)
    run = trainer(max_epochs=30)
    run.fit(training, digits)

    assert run.test(training, digits, verbose=False)[0]["test/error"] < 0.06
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match="labels"):
        training.training_step((torch.rand(1, 64),), 0)


@pytest.mark.parametrize("name", CLASSIFIERS.values())
def test_the_shipped_networks_are_no_stacks_and_name_how_they_were_made(name):
    assert name in shipped_feature_classifiers()
    assert name not in shipped()

    with pytest.raises(FileNotFoundError, match=name):
        load_feature_classifier("no-such")

    path = shipped_feature_classifiers()[name]
    assert path.stat().st_size < 1e6

    facts = load_feature_classifier(name).facts
    assert json.loads(json.dumps(facts)) == facts
    assert (ROOT / facts["config"]).is_file()
    assert CLASSIFIERS[facts["dataset"]] == name


#: Fixtures of data sets, and test errors that their networks do not exceed.
ERRORS = {"mnist": 0.01, "fashion": 0.085}
of_each_data_set = pytest.mark.parametrize("name", ERRORS)


@of_each_data_set
def test_a_shipped_network_has_the_test_error_it_says(name, request):
    data = request.getfixturevalue(name)
    network, words = feature_network(data)
    x, y, _ = data.split("test")

    with torch.no_grad():
        wrong = sum(
            (network(a).argmax(1) != b).sum().item()
            for a, b in zip(x.split(100), y.split(100), strict=True)
        )

    assert wrong / len(x) == pytest.approx(network.facts["test_error"], abs=2e-4)
    assert network.facts["test_error"] < ERRORS[name]
    assert words.endswith(f"{100 * network.facts['test_error']:.2f} % test error")

    features = network.features(data.split("train").x[:500])
    assert features.square().mean().item() == pytest.approx(1.0, abs=0.15)


def blurred(x, sigma):
    return torch.from_numpy(gaussian_filter(x.view(-1, 28, 28), (0, sigma, sigma))).flatten(1)


@of_each_data_set
def test_fid_is_least_for_real_images_and_grows_with_blur_noise_and_missing_classes(name, request):
    data = request.getfixturevalue(name)
    network, _ = feature_network(data)
    x, y, _ = data.split("train")[::15]
    test, _ = in_batches(network, data.split("test").x[::3])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def fid(images):
        return frechet_distance(test, in_batches(network, images)[0])

    real = fid(x)
    noisy = [fid((x + sigma * noise).clamp(0, 1)) for sigma in (0.05, 0.1, 0.2)]
    smooth = [fid(blurred(x, sigma)) for sigma in (0.5, 1.0, 2.0)]
    few = [fid(x[y < classes]) for classes in (8, 5, 2)]

    assert real < 0.2
    for worse in (noisy, smooth, few):
        assert worse == sorted(worse)
        assert worse[0] > 3 * real
        assert worse[-1] > 20 * real
