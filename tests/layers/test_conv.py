"""A convolution is an affine map whose matrix has shared weights: the matrix is the oracle."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

import gendae
from gendae.layers.affine import Affine
from gendae.layers.conv import Conv, ConvTranspose, Pool, Unpool
from gendae.layers.layers import Layers
from gendae.layers.pair import Pair
from gendae.layers.residual import Residual
from gendae.layers.wrapped import change
from gendae.models.convolutional import conv_autoencoder, lenet
from gendae.models.stack import Stack
from gendae.rules.moment import Moment

SHARED = [
    Conv((2, 6, 7), 3, kernel=3, padding=1, activation="tanh"),
    Conv((2, 6, 8), 3, kernel=4, stride=2, padding=1, activation="softplus"),
    Conv((1, 7, 4), 2, kernel=1, stride=3, activation="sigmoid"),
    ConvTranspose((3, 3, 4), 2, kernel=4, stride=2, padding=1, activation="relu"),
    ConvTranspose((2, 3, 2), 3, kernel=3, activation="tanh"),
]


def matrix(layer):
    """W of s(W h + b), (outputs, inputs), a differentiable function of the shared weights."""
    return layer.linear(torch.eye(layer.in_features, dtype=layer.weight.dtype)).T


def as_affine(layer):
    """The same map with a matrix of its own."""
    dense = Affine(layer.in_features, layer.out_features, layer.activation).to(layer.weight)
    nothing = torch.zeros(1, layer.in_features, dtype=layer.weight.dtype)
    with torch.no_grad():
        dense.weight.copy_(matrix(layer))
        dense.bias.copy_(layer.preactivation(nothing)[0])

    return dense


def dense_copy(module):
    """A copy of a model in which every convolution is a matrix."""
    module = copy.deepcopy(module)
    for name, child in module.named_children():
        if isinstance(child, Conv | ConvTranspose):
            setattr(module, name, as_affine(child))
        else:
            setattr(module, name, dense_copy(child))

    return module


@pytest.mark.parametrize("layer", SHARED, ids=repr)
def test_a_convolution_is_the_affine_map_of_its_matrix(layer):
    layer = copy.deepcopy(layer).double()
    nn.init.normal_(layer.bias)
    dense = as_affine(layer)

    h = torch.randn(4, layer.in_features, dtype=torch.float64)
    step = 1e-3 * torch.randn_like(h)
    d = torch.randn(4, layer.out_features, dtype=torch.float64)
    close = {"rtol": 1e-12, "atol": 1e-12}

    torch.testing.assert_close(layer(h), dense(h), **close)
    torch.testing.assert_close(change(layer, h, step), change(dense, h, step), **close)
    torch.testing.assert_close(layer.transposed(d), d @ dense.weight, **close)

    (shared,) = torch.autograd.grad(matrix(layer), layer.weight, d.T @ h)
    torch.testing.assert_close(layer.weight_gradient(h, d), shared, **close)

    other = torch.randn_like(layer.weight)
    torch.testing.assert_close(
        (layer.linear(h, other) * d).sum(), (h * layer.transposed(d, other)).sum(), **close
    )
    partner = layer.partner("relu")
    assert partner.in_shape == layer.out_shape
    assert partner.out_shape == layer.in_shape


def test_initial_weights_keep_the_size_of_what_passes():
    torch.manual_seed(0)
    for layer in (Conv((16, 20, 20), 64, 4, 2, 1), ConvTranspose((64, 20, 20), 16, 4, 2, 1)):
        for init in ("normal", "orthogonal"):
            made = type(layer)(layer.in_shape, layer.channels, 4, 2, 1, init=init)
            a = made(torch.randn(50, made.in_features))
            inside = a.unflatten(1, made.out_shape)[..., 2:-2, 2:-2]
            assert 0.85 < inside.square().mean() < 1.1


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_pooling_sends_back_by_its_jacobian_and_copies_by_that_of_means(pooling):
    pool = Pool((2, 4, 6), 2, pooling)
    h = torch.randn(3, 48, dtype=torch.float64, requires_grad=True)
    d = torch.randn(3, 12, dtype=torch.float64)

    (jacobian,) = torch.autograd.grad(pool(h), h, d)
    torch.testing.assert_close(pool.back(h.detach(), d), jacobian)
    (means,) = torch.autograd.grad(F.avg_pool2d(h.view(3, 2, 4, 6), 2).flatten(1), h, d)
    torch.testing.assert_close(pool.copied(d), means)

    unpool = pool.partner()
    z = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    (jacobian,) = torch.autograd.grad(unpool(z), z, h.detach())
    torch.testing.assert_close(unpool.back(z, h.detach()), jacobian)
    torch.testing.assert_close(Pool((2, 4, 6), 2, "mean")(unpool(z)), z)
    assert isinstance(unpool.partner(), Pool)


def small_autoencoder():
    stack = conv_autoencoder(
        (2, 4, 4), [3, 4], [5], activation="softplus", observation="bernoulli", init="uniform"
    )
    return stack.double()


def small_residual():
    conv = Conv((2, 4, 4), 2, 3, padding=1, activation="tanh")
    back = Conv((2, 4, 4), 2, 3, padding=1, activation="sigmoid")
    lower = Pair(Residual(conv, 0.5), Layers([Residual(back, 0.3), back.partner("sigmoid")]))
    pool = Pool((2, 4, 4), 2, "mean")
    return Stack(lower, Pair(pool, pool.partner()), Pair(Affine(8, 3), Affine(3, 8))).double()


STACKS = {"strided": small_autoencoder, "residual and pooled": small_residual}
GENERATIVE = {
    "kl": gendae.KLRule,
    "pairs": lambda stack: gendae.TargetPropRule(stack, gendae.PairLoops()),
    "printed": lambda stack: gendae.TargetPropRule(stack, gendae.ShortAndLongLoops()),
    "differences": lambda stack: gendae.TargetPropRule(
        stack, gendae.DifferenceLoop(gendae.Partners(), start=0)
    ),
    "2015": lambda stack: gendae.VariationalEMRule(stack, gendae.TargetPropInference(steps=3)),
}


def gradients(rule, *batch):
    """Losses, and the gradient of their sum by all of the model's parameters, by name."""
    moment = Moment(generator=torch.Generator().manual_seed(1), update=0)
    losses = rule.losses(batch, moment)
    named = dict(rule.stack.named_parameters())
    found = torch.autograd.grad(sum(losses.values()), list(named.values()), allow_unused=True)

    return losses, dict(zip(named, found, strict=True))


def assert_same_learning(make, stack, *batch):
    """A rule gives the same losses, and the gradients that the chain rule gives shared weights."""
    dense = dense_copy(stack)
    losses, by_shared = gradients(make(stack), *batch)
    of_dense, by_matrix = gradients(make(dense), *batch)

    assert losses.keys() == of_dense.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, of_dense[name], rtol=1e-10, atol=1e-10)

    modules = dict(stack.named_modules())
    compared = 0
    for name, gradient in by_shared.items():
        owner, _, kind = name.rpartition(".")
        expected = by_matrix[name]
        if gradient is None:
            assert expected is None
            continue
        layer = modules[owner]
        if isinstance(layer, Conv | ConvTranspose):
            if kind == "bias":
                expected = expected.view(layer.out_shape).sum((1, 2))
            else:
                (expected,) = torch.autograd.grad(matrix(layer), layer.weight, expected)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
        compared += bool(gradient.abs().sum() > 0)

    assert compared >= 4


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("rule", GENERATIVE)
def test_generative_rules_learn_as_from_the_matrix(rule, stack):
    torch.manual_seed(0)
    model = STACKS[stack]()
    x = torch.rand(6, 32, dtype=torch.float64)
    model.prior.fit(model.encode(x)[-1].detach())
    assert_same_learning(GENERATIVE[rule], model, x)


def test_a_joint_model_learns_as_from_the_matrix():
    torch.manual_seed(0)
    image = {"shape": [2, 4, 4], "channels": [3], "sizes": [5], "observation": "bernoulli"}
    label = {"sizes": [3], "kind": "onehot"}
    joint = gendae.joint_autoencoder({"image": image, "label": label}, [6]).double()
    x = torch.rand(6, 32, dtype=torch.float64)
    labels = torch.eye(3, dtype=torch.float64).repeat(2, 1)
    assert_same_learning(gendae.JointTargetPropRule, joint, torch.cat([x, labels], 1))


CLASSIFYING = {
    "back-propagation": gendae.BackpropRule,
    "difference targets": gendae.DifferenceTargetPropRule,
    "straight-through": gendae.StraightThroughRule,
}


@pytest.mark.parametrize("units", [None, "sign", "binary"])
@pytest.mark.parametrize("rule", CLASSIFYING)
def test_classifiers_learn_as_from_the_matrix(rule, units):
    if units is not None and rule == "back-propagation":
        pytest.skip("no derivative passes through bits")
    torch.manual_seed(0)
    options = {"kernel": 3, "paddings": (1, 1), "pooling": "mean", "sizes": [7], "classes": 3}
    network = lenet((1, 8, 8), [3, 4], **options, units=units, stochastic=units == "binary")

    x = torch.rand(6, 64, dtype=torch.float64)
    assert_same_learning(CLASSIFYING[rule], network.double(), x, torch.arange(6) % 3)


def test_samples_inpainting_and_codes_are_those_of_the_matrix(tmp_path):
    torch.manual_seed(0)
    stack = small_autoencoder()
    dense = dense_copy(stack)
    x = torch.rand(40, 2, 4, 4, dtype=torch.float64)
    mask = torch.zeros(32, dtype=torch.bool)
    mask[:20] = True

    for model in (stack, dense):
        model.prior.fit(stack.encode(x)[-1].detach())
        model.fit_residuals(x)
    for draw in (
        lambda model: gendae.generate(model, 7, seed=0),
        lambda model: gendae.generate(model, 7, gendae.JointChainSampler(), seed=0),
        lambda model: gendae.inpaint(model, x.flatten(1), mask, seed=0),
        lambda model: gendae.TargetPropInference(steps=4)(model, x.flatten(1))[-1],
    ):
        torch.testing.assert_close(draw(stack), draw(dense), rtol=1e-10, atol=1e-10)

    path = gendae.save(stack, tmp_path / "conv.safetensors")
    again = gendae.load(path)
    assert again.shapes == stack.shapes == [(2, 4, 4), (3, 2, 2), (4, 1, 1), (5,)]
    torch.testing.assert_close(
        again.double().reconstruct(x), stack.reconstruct(x), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv((1, 4, 4), 2, 5), r"kernel=5 is larger than an image of .* \(1, 4, 4\)"),
        (lambda: Conv((1, 8, 8), 2, 3, stride=2), r"stride=2 does not divide 5, .* \(1, 8, 8\)"),
        (lambda: Conv((8, 8), 2, 3), r"in_shape=\(8, 8\): \(channels, height, width\) is needed"),
        (lambda: Conv((1, 8, 0), 2, 3), "in_shape=0: a whole number >= 1"),
        (lambda: Conv((1, 8, 8), 2, 3, padding=3), "padding=3: a whole number from 0 to 2"),
        (lambda: ConvTranspose((1, 1, 1), 1, 2, padding=1), "leaves nothing of an image"),
        (lambda: Conv((1, 8, 8), 2, 3, gain=float("nan")), "gain=nan: a finite number"),
        (lambda: Pool((1, 5, 4)), r"size=2 does not divide the sides of .*\(1, 5, 4\)"),
        (lambda: Pool((1, 4, 4), pooling="sum"), "max, mean"),
        (lambda: Layers([]), "one at least"),
        (lambda: Layers(Conv((1, 4, 4), 2, 1)), "layers=Conv: a list is needed"),
        (lambda: conv_autoencoder(channels=3), "channels=3: a list is needed"),
        (
            lambda: Layers([Conv((1, 4, 4), 2, 1), Unpool((1, 4, 8))]),
            r"number 1, Conv, gives \(2, 4, 4\), but number 2, Unpool, takes \(1, 4, 8\)",
        ),
        (
            lambda: Pair(Conv((1, 4, 4), 2, 1), ConvTranspose((8, 2, 2), 1, 2, 2)),
            r"f gives images of \(2, 4, 4\) but g takes \(8, 2, 2\)",
        ),
        (
            lambda: Stack(
                Pair(Conv((1, 4, 4), 2, 1), ConvTranspose((2, 4, 4), 1, 1)),
                Pair(Conv((8, 2, 2), 2, 1), ConvTranspose((2, 2, 2), 8, 1)),
            ),
            r"pair 1 gives images of \(2, 4, 4\) but pair 2 takes \(8, 2, 2\)",
        ),
        (lambda: lenet(paddings=[1]), r"paddings=\[1\]: one for each of channels"),
        (lambda: conv_autoencoder(channels=[]), "at least one convolution"),
    ],
)
def test_shapes_that_do_not_fit_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# -- training -------------------------------------------------------------------------------------


def of_images(*shape):
    """A joint model of images by a convolution, and data of such a shape."""
    x = torch.rand(30, 16, generator=torch.Generator().manual_seed(0))
    return gendae.Images(x.view(30, *shape))


@pytest.mark.parametrize("data", [of_images(2, 8), of_images(4, 4)])
@pytest.mark.parametrize(
    "rule",
    [
        lambda: gendae.BackStepRule(conv_autoencoder((1, 4, 4), [2])),
        lambda: gendae.DenoisingBlocksRule(
            gendae.denoising_blocks(16, 2, network=gendae.LevelConv((1, 4, 4), 2, 1))
        ),
    ],
)
def test_every_training_compares_the_shapes_of_images(rule, data):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}

    def fit(data):
        trainer = pl.Trainer(max_steps=1, limit_val_batches=0, enable_model_summary=False, **quiet)
        trainer.fit(rule(), data)

    if data.shape == (4, 4):
        return fit(data)

    words = r"images of \(channels, height, width\) = \(1, 2, 8\); the model takes \(1, 4, 4\)"
    with pytest.raises(ValueError, match=f"Images has {words}"):
        fit(data)

    x = data.split("train").x.view(-1, 1, 2, 8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=5)
    with pytest.raises(ValueError, match=f"the batch has {words}"):
        fit(loader)


@pytest.mark.parametrize("feedback", ["LocalDifference", "Inverses", "Partners", "Random"])
def test_no_feedback_is_made_for_what_lies_above_pooling_of_x(feedback):
    """The steps are those without it; what leads to no map that learns is left out."""
    pool = Pool((1, 8, 8))
    conv = Conv(pool.out_shape, 3, kernel=3, padding=1, activation="tanh")
    pairs = [
        Pair(pool, pool.partner()),
        Pair(conv, conv.partner()),
        Pair(Affine(48, 5), Affine(5, 48)),
    ]
    network = gendae.Classifier(*pairs, output=Affine(5, 3))
    batch = torch.rand(7, 64), torch.randint(3, (7,))

    rule = gendae.FeedbackRule(network, getattr(gendae, feedback)(), align=0)
    losses = rule.losses(batch, Moment(0.0, torch.Generator().manual_seed(0)))
    assert {"lack_f_2", "lack_f_3", "label_f_4"} <= losses.keys()
    assert not {"feedback_f_2", "inverse_g_2", "lack_f_1"} & losses.keys()
    assert "1" not in rule.feedback.layers

    # with the feedback Exact the displacements are the gradients all the same
    exact = gendae.FeedbackRule(network, gendae.Exact(), align=0)
    sum(exact.losses(batch).values()).backward()
    ours = conv.weight.grad.clone()
    conv.weight.grad = None
    exact.global_loss(batch).backward()
    torch.testing.assert_close(ours, conv.weight.grad, rtol=1e-4, atol=1e-6)
    assert min(gendae.DifferenceTargetPropRule(network).losses(batch)) == "inverse_g_3"
