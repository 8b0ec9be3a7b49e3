"""Contracts of objects: each registered class can be described, built, copied and pickled, and is the same afterwards."""

import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch

from gendae import corruption
from gendae.clamping import Completer
from gendae.classifier import Classifier
from gendae.conditionals import Bernoulli, Categorical, Discrete, Gaussian, LearnedGaussian
from gendae.data import MNIST, Digits, ImageData, Images
from gendae.features import FeatureClassifier
from gendae.inference import GradientInference, TargetPropInference
from gendae.inpainting import Inpainter
from gendae.invertible import InvertibleAffine, InvertiblePair
from gendae.joint import JointStack
from gendae.layers import MLP, Affine, Pair, TiedPair
from gendae.levels import LevelSampler
from gendae.modalities import EachModality, Junction, Modality
from gendae.multimodal import Arrays, Multimodal
from gendae.optimized import OptimizingPair
from gendae.sampling import (
    AncestralSampler,
    GenerateSampler,
    JointChainSampler,
    LatentChainSampler,
)
from gendae.shards import Shards
from gendae.spec import REGISTRY, build, describe
from gendae.stack import Stack
from gendae.toys import Toys2D
from tests.contracts import flat, real
from tests.contracts_layers import fitted, priors
from tests.contracts_models import classifier, joint_stack, stack
from tests.contracts_rules import RULES


def small_pair(below=8, above=4):
    return Pair(Affine(below, above, "tanh"), Affine(above, below))


#: An object of each registered class, and the width of a batch that it computes something of, where it does.
OBJECTS = (
    {
        corruption.GaussianNoise: (lambda: corruption.GaussianNoise(0.5, half_life=0.1), None),
        corruption.SpikeNoise: (lambda: corruption.SpikeNoise(2), None),
        corruption.RelativeNoise: (lambda: corruption.RelativeNoise(0.2, 0.5), None),
        corruption.FlipNoise: (lambda: corruption.FlipNoise(0.1, "binary"), None),
        corruption.NeighbourNoise: (lambda: corruption.NeighbourNoise(0.3), None),
        EachModality: (lambda: EachModality([None, corruption.SpikeNoise(2)], [3, 2]), None),
        Gaussian: (lambda: Gaussian(0.3), None),
        Bernoulli: (lambda: Bernoulli(True), None),
        Categorical: (Categorical, None),
        Discrete: (lambda: Discrete("binary", True), None),
        LearnedGaussian: (lambda: LearnedGaussian(4, 0.2, given=8, hidden=[3]), None),
        Affine: (lambda: Affine(8, 4, "linear", receives="bits"), 8),
        MLP: (lambda: MLP(8, [5], 4, "tanh", "softplus"), 8),
        InvertibleAffine: (lambda: InvertibleAffine(8, "svd"), 8),
        Pair: (small_pair, 8),
        TiedPair: (lambda: TiedPair(8, 4), 8),
        InvertiblePair: (lambda: InvertiblePair(8), 8),
        OptimizingPair: (lambda: OptimizingPair(Affine(8, 4), Affine(4, 8), steps=3), 8),
        Stack: (stack, 8),
        Classifier: (classifier, 8),
        JointStack: (joint_stack, 11),
        Modality: (lambda: Modality(8, "pixels", [small_pair()]), None),
        Junction: (lambda: Junction(Affine(9, 5), Affine(5, 7), Gaussian(0.5)), None),
        FeatureClassifier: (lambda: FeatureClassifier((8, 8), (2, 3), 5), 64),
        TargetPropInference: (lambda: TargetPropInference(3, temperature=0.1), None),
        GradientInference: (lambda: GradientInference(3, q_weight=0.5, every_q=True), None),
        AncestralSampler: (lambda: AncestralSampler(1.0), None),
        GenerateSampler: (lambda: GenerateSampler(2, GradientInference(2)), None),
        LatentChainSampler: (
            lambda: LatentChainSampler(2, corruption=corruption.SpikeNoise(2)),
            None,
        ),
        JointChainSampler: (lambda: JointChainSampler(2, [corruption.SpikeNoise(2)] * 3), None),
        LevelSampler: (lambda: LevelSampler(1, 2, residual=0.5), None),
        Completer: (lambda: Completer.annealed(3, corruption=corruption.SpikeNoise(2)), None),
        Inpainter: (lambda: Inpainter(3, chains=2, level=None), None),
        Digits: (lambda: Digits(50, 3), None),
        MNIST: (lambda: MNIST("data", 3, download=False), None),
        Images: (lambda: Images("images.npy", [4, 4], seed=3), None),
        Toys2D: (Toys2D, None),
        Shards: (lambda: Shards("images.npy"), None),
        Arrays: (lambda: Arrays({"a": "a.npy"}), None),
        Multimodal: (lambda: Multimodal(Digits(), ["image", "label"], labelled=50), None),
    }
    | {case.rule: (case.make, None) for case in RULES}
    | {
        type(make()): (lambda make=make, codes=codes: fitted(make, codes), 4)
        for _, _, make, codes in priors()
        if codes is real
    }
)
REGISTERED = [
    cls for cls in REGISTRY.values() if cls.__module__.startswith("gendae.")
]  # other tests register their own
objects = pytest.mark.parametrize("cls", REGISTERED, ids=lambda cls: cls.__name__)


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """A file of images in the current folder."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((20, 4, 4), np.float32))


def made(cls):
    torch.manual_seed(0)
    return OBJECTS[cls][0]()


def computed(obj, width):
    """What an object makes of a batch, and its weights and fitted numbers."""
    found = list(obj.state_dict().values()) if hasattr(obj, "state_dict") else []
    if width is None:
        return found
    x = torch.rand(3, width, generator=torch.Generator().manual_seed(1)) - 0.5
    names = ("forward", "reconstruct", "encode", "decode", "g", "log_prob", "entropy")
    usable = [name for name in names if callable(getattr(obj, name, None))]
    for name in usable:
        try:
            found += flat(getattr(obj, name)(x))
        except (ValueError, NotImplementedError, RuntimeError, TypeError):
            continue
    return found


def alike(a, b, width):
    first, second = computed(a, width), computed(b, width)
    return (
        describe(a) == describe(b)
        and len(first) == len(second)
        and all(map(torch.equal, first, second))
    )


def test_every_registered_class_is_here():
    assert set(REGISTERED) == set(OBJECTS)


@objects
def test_a_description_builds_the_same(cls):
    """By way of JSON; with the weights, the built object computes the same."""
    obj = made(cls)
    built = build(json.loads(json.dumps(describe(obj), allow_nan=False)))
    assert type(built) is cls and describe(built) == describe(obj)
    if isinstance(obj, torch.nn.Module):
        built.load_state_dict(obj.state_dict())
        assert alike(built, obj, OBJECTS[cls][1])


@objects
@pytest.mark.parametrize("way", ["copy", "pickle", "torch"])
def test_a_copy_is_the_same_and_stands_alone(cls, way):
    obj, width = made(cls), OBJECTS[cls][1]
    if way == "copy":
        other = copy.deepcopy(obj)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(obj))
    else:
        buffer = io.BytesIO()
        torch.save(obj, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    assert alike(other, obj, width)
    if isinstance(obj, torch.nn.Module) and list(obj.parameters()):
        before = [t.clone() for t in computed(obj, width)]
        with torch.no_grad():
            for p in other.parameters():
                p.add_(0.1)
        assert all(map(torch.equal, computed(obj, width), before))
        assert not all(
            map(
                torch.equal,
                computed(other, width)[len(other.state_dict()) :] or computed(other, width),
                before[len(other.state_dict()) :] or before,
            )
        )


@pytest.mark.parametrize(
    "make",
    [lambda: TiedPair(8, 4), lambda: InvertiblePair(8), lambda: InvertiblePair(8, "svd")],
    ids=["tied", "cholesky", "svd"],
)
@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda obj: pickle.loads(pickle.dumps(obj))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_pair_that_shares_weights_shares_its_own(make, way):
    """g of the copy reads the copy's f: an update of one moves the other, and leaves the original."""
    pair, h = make(), torch.rand(3, 4)
    h = torch.rand(3, pair.g.in_features) - 0.5
    other = way(pair)
    before, first = pair.g(h), next(other.f.parameters())
    with torch.no_grad():
        first.mul_(1.5)
    assert torch.equal(pair.g(h), before) and not torch.equal(other.g(h), before)


@pytest.mark.parametrize(
    "cls", [cls for cls in REGISTERED if issubclass(cls, ImageData)], ids=lambda c: c.__name__
)
def test_data_are_described_without_being_read(cls, images):
    data = cls("elsewhere.npy") if cls in (Images, Shards) else made(cls)
    assert build(describe(data)).__dict__.keys() == made(cls).__dict__.keys()
