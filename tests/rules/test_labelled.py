"""Labels by inference: closed forms, weight 0, missing labels, and what a weak label teaches."""

from copy import deepcopy

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

import gendae
from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.data.labels import PartlyLabelled
from gendae.data.loader import Split
from gendae.data.multimodal import FewLabels
from gendae.inference import GradientInference, TargetPropInference
from gendae.laws import Gaussian
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder, with_labels
from gendae.models.labelled import LabelledStack
from gendae.rules.labelled import LabelledEMRule
from gendae.rules.rates import Rates
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import at, exact_encoder, linear_stack
from tests.training.resuming import QUIET, FewDigits

CLASSES = 3


def labelled(sizes=(8, 6, 4), dtype=torch.float64, **options):
    return with_labels(deep_autoencoder(list(sizes), **options), CLASSES).to(dtype)


def examples(n=6, width=8):
    return torch.rand(n, width, dtype=torch.float64), torch.arange(n) % CLASSES


# -- a linear-Gaussian label ----------------------------------------------------------------------

SIGMA = 0.7
SIGMA_Y = 0.5


def gaussian_label(scale=1.5):
    """x = a U h, y = scale V h, each with noise; U and V have orthonormal columns."""
    stack = linear_stack((3, 2), SIGMA)
    with torch.no_grad():
        stack.pairs[0].g.weight.copy_(2.0 * torch.linalg.qr(torch.randn(3, 2).double()).Q)

    stack = exact_encoder(stack)
    o = Affine(2, 4, "linear").double()
    r_y = Affine(4, 2, "linear").double()
    s_y = SIGMA_Y**2 / (SIGMA_Y**2 + scale**2)
    with torch.no_grad():
        o.weight.copy_(scale * torch.linalg.qr(torch.randn(4, 2).double()).Q)
        o.bias.normal_()
        r_y.weight.copy_(s_y * o.weight.T / SIGMA_Y**2)  # the posterior mean of h given y
        r_y.bias.copy_(-r_y.weight @ o.bias)

    label = Pair(r_y, o, observation=Gaussian(SIGMA_Y))
    s_x = SIGMA**2 / (SIGMA**2 + 4.0)

    return LabelledStack(*stack.pairs, label=label, prior=stack.prior), s_x, s_y


def posterior_mean(stack, x, y, weight):
    """E[h | x, y], log p(y | h) taken `weight` times."""
    g = stack.pairs[0].g
    o = stack.label.g
    a = g.weight / SIGMA
    b = o.weight * weight**0.5 / SIGMA_Y
    precision = torch.eye(2, dtype=torch.float64) + a.T @ a + b.T @ b
    pulls = (x - g.bias) / SIGMA @ a + (y - o.bias) * weight**0.5 / SIGMA_Y @ b

    return torch.linalg.solve(precision, pulls.T).T.detach()


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_inference_ends_at_the_posterior_mean_given_x_and_y(weight):
    """Eq. 12 of y is S_y times the gradient of log p(y | h), and that of x S_x times its own.

    The second row has no label, the third one no other information than p(h) and x.
    """
    stack, s_x, s_y = gaussian_label()
    x = torch.randn(3, 3, dtype=torch.float64)
    y = torch.randn(3, 4, dtype=torch.float64)
    y[1] = torch.nan

    # the recognition law's variance S_x multiplies the prior's gradient
    stack.pairs[0].recognition = Gaussian(s_x**0.5)
    inference = TargetPropInference(2000, 0.2, use_prior=True, label_weight=weight * s_x / s_y)
    h = inference(stack, x, y=y)[-1]

    expected = posterior_mean(stack, x, y.nan_to_num(), weight)
    expected[1] = posterior_mean(stack, x, y.nan_to_num(), 0.0)[1]
    torch.testing.assert_close(h, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_gradient_inference_ends_there_too(weight):
    stack, _, _ = gaussian_label()
    x = torch.randn(3, 3, dtype=torch.float64)
    y = torch.randn(3, 4, dtype=torch.float64)
    y[1] = torch.nan

    inference = GradientInference(800, 0.02, use_prior=True, label_weight=weight)
    h = inference(stack, x, y=y)[-1]

    expected = posterior_mean(stack, x, y.nan_to_num(), weight)
    expected[1] = posterior_mean(stack, x, y.nan_to_num(), 0.0)[1]
    torch.testing.assert_close(h, expected, rtol=1e-8, atol=1e-8)


# -- weight 0, and labels that are missing --------------------------------------------------------


def trained(rule, data, updates=6):
    torch.manual_seed(1)
    t = Trainer(max_steps=updates, enable_checkpointing=False, **QUIET)
    t.fit(rule, data)

    return rule.stack


def rule_of(cls, stack, inference):
    noise = [GaussianNoise(0.2)] * 3
    return cls(deepcopy(stack), inference, noise, rates=Rates(f=1e-3, g=2e-3))


def test_weight_0_is_the_rule_without_labels_bit_for_bit():
    """Its layers and their prior after training; o and r_y learn beside them."""
    stack = with_labels(deep_autoencoder([64, 20, 8]), 10)
    plain = gendae.Stack(*stack.pairs)
    before = deepcopy(stack.label.state_dict())

    today = trained(rule_of(VariationalEMRule, plain, TargetPropInference(5)), FewDigits())
    inference = TargetPropInference(5, label_weight=0.0)
    with_label = trained(rule_of(LabelledEMRule, stack, inference), FewDigits())
    other = trained(rule_of(LabelledEMRule, stack, TargetPropInference(5)), FewDigits())

    state = with_label.state_dict()
    for name, value in today.state_dict().items():
        assert torch.equal(value, state[name]), name

    assert not torch.equal(today.pairs[0].f.weight, other.pairs[0].f.weight)
    for name, value in with_label.label.state_dict().items():
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("cls", [TargetPropInference, GradientInference])
def test_an_example_without_label_is_inferred_as_if_no_other_had_one(cls):
    stack = labelled()
    x, classes = examples()
    classes[::2] = -1
    y = stack.label_rows(classes)

    inference = cls(4)
    both = inference(stack, x, y=y)
    free = inference(stack, x)
    alone = inference(stack, x[1::2], y=y[1::2])
    for level in (1, 2):
        assert torch.equal(both[level][::2], free[level][::2])
        torch.testing.assert_close(both[level][1::2], alone[level], rtol=1e-12, atol=1e-12)

    assert (both[-1][1::2] - free[-1][1::2]).abs().min() > 0


def test_losses_are_the_sum_of_those_of_the_labelled_and_the_unlabelled():
    stack = labelled()
    noise = [GaussianNoise(0.0)] * 3
    rule = LabelledEMRule(stack, corruption=noise)
    x, classes = examples()
    classes[4:] = -1

    whole = rule.losses((x, classes), at(0))
    parts = [rule.losses((x[rows], classes[rows]), at(0)) for rows in (slice(4), slice(4, 6))]
    for name, loss in whole.items():
        expected = (4 * parts[0][name] + 2 * parts[1][name]) / 6
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)

    assert parts[1]["f_3"] == 0
    assert parts[1]["g_3"] == 0


def test_the_losses_of_the_label_pair_are_written_out():
    stack = labelled()
    inference = TargetPropInference(3)
    rule = LabelledEMRule(stack, inference, [GaussianNoise(0.0)] * 3)
    x, classes = examples()

    h = inference(stack, x, y=stack.label_rows(classes))[-1]
    losses = rule.losses((x, classes), at(0))

    one_hot = torch.eye(CLASSES, dtype=torch.float64)[classes]
    partner = (stack.label.f(one_hot) - h).square().sum(1) / 2
    torch.testing.assert_close(losses["f_3"], partner.mean())
    torch.testing.assert_close(losses["g_3"], cross_entropy(stack.label.g.g(h), classes))


# -- the limit of weak labels ---------------------------------------------------------------------


def symmetric():
    """Encoders tanh, linear, linear: an exact inverse below, orthogonal ones above, r_y = W_o'.

    Feed-forward codes are a fixed point without labels, so that all change is the label's.
    """
    bottom = orthogonal("tanh")
    pairs = [Pair(bottom, gendae.Wrapped(Inverse(bottom), (6,), "linear").double())]
    for _ in range(2):
        f = orthogonal("linear")
        g = orthogonal("linear")
        g.weight.data = f.weight.data.T.clone()
        pairs.append(Pair(f, g))

    stack = with_labels(gendae.Stack(*pairs), CLASSES).double()
    stack.label.f = gendae.Wrapped(Partner(stack.label.g.g), (CLASSES,), "linear")

    return stack


def orthogonal(activation):
    f = Affine(6, 6, activation).double()
    f.weight.data = torch.linalg.qr(f.weight.data).Q

    return f


class Inverse(nn.Module):
    """x = W' atanh(h) of h = tanh(W x)."""

    def __init__(self, f):
        super().__init__()
        self._of = (f,)  # in a tuple, so that the weights are not registered twice

    def forward(self, h):
        return torch.atanh(h) @ self._of[0].weight.to(h)


class Partner(nn.Module):
    """W_o' y."""

    def __init__(self, o):
        super().__init__()
        self._of = (o,)

    def forward(self, y):
        return y @ self._of[0].weight.to(y)


def cosines(weight):
    """Between the updates of f_1 .. f_3 and those of back-propagation of the cross-entropy."""
    torch.manual_seed(2)
    stack = symmetric()
    encoders = [pair.f.weight for pair in stack.pairs]
    x, classes = examples(width=6)
    x = x - 0.5

    inference = TargetPropInference(600, 0.1, alpha=0.01, label_weight=weight)
    rule = LabelledEMRule(stack, inference, [GaussianNoise(0.0)] * 4)
    losses = rule.losses((x, classes), at(0))
    local = [torch.autograd.grad(losses[f"f_{l}"], w)[0] for l, w in enumerate(encoders, 1)]

    h = stack.encode(x)[-1]
    exact = torch.autograd.grad(cross_entropy(stack.label.g.g(h), classes), encoders)
    pairs = zip(local, exact, strict=True)
    return [cosine_similarity(a.flatten(), b.flatten(), 0).item() for a, b in pairs]


def test_the_update_by_a_weak_label_tends_to_back_propagation():
    """With symmetric partners, as in Xie and Seung 2003; a strong label moves what it corrects."""
    weak = cosines(1e-4)
    strong = cosines(1.0)

    assert min(weak) > 0.99999
    assert all(a < b for a, b in zip(strong, weak, strict=True))


# -- bad input ------------------------------------------------------------------------------------


class Unlabelled(FewDigits):
    def read(self):
        splits, shape = super().read()
        return {name: Split(split.x) for name, split in splits.items()}, shape


class BadLabels(FewDigits):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def read(self):
        splits, shape = super().read()
        return {n: Split(s.x, self.change(s.y)) for n, s in splits.items()}, shape


BAD = [
    (Unlabelled, "has no labels; LabelledEMRule learns from"),
    (lambda: BadLabels(lambda y: y + 1), "labels from 1 to 10; the model has 10 classes, 0 .. 9"),
    (lambda: BadLabels(lambda y: y - 2), "from -2 to 7; .*and -1 is an example without a label"),
    (lambda: BadLabels(lambda y: y.float()), "torch.float32; class indices of an integer type"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_labels_are_refused_before_the_first_update(make, words):
    rule = LabelledEMRule(with_labels(deep_autoencoder([64, 8])))
    with pytest.raises(ValueError, match=words) as caught:
        Trainer(max_steps=2, enable_checkpointing=False, **QUIET).fit(rule, make())

    assert "\n" not in str(caught.value)


REFUSED = [
    (lambda: LabelledEMRule(deep_autoencoder([8, 4])), "has no labels; LabelledEMRule trains"),
    (lambda: VariationalEMRule(labelled()), "would leave the label decoder as it is"),
    (lambda: with_labels(deep_autoencoder([8, 4]), 1), "classes=1"),
    (lambda: TargetPropInference(label_weight=-1.0), "label_weight=-1.0"),
    (lambda: GradientInference(label_weight=-1.0), "label_weight=-1.0"),
    (
        lambda: LabelledStack(*deep_autoencoder([8, 4]).pairs, label=labelled((8, 5)).label),
        "label leads to 5 units; the top has 4",
    ),
    (
        lambda: TargetPropInference()(deep_autoencoder([8, 4]), torch.rand(2, 8), y=torch.eye(2)),
        "Stack has no labels; accepted: a LabelledStack",
    ),
    (
        lambda: TargetPropInference()(labelled(), examples(2)[0], y=torch.tensor([0, 1])),
        r"y has shape \(2,\) and type torch.int64",
    ),
    (lambda: PartlyLabelled(Digits(), FewLabels(15)), "count=15: a multiple of 10"),
    (lambda: PartlyLabelled(Digits(), 15), "labelled=15"),
    (lambda: PartlyLabelled(Unlabelled(), FewLabels(20)).setup(), "have no labels"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()

    assert "\n" not in str(caught.value)


# -- few labels, and what is learned --------------------------------------------------------------


def test_few_images_keep_their_label():
    data = PartlyLabelled(FewDigits(), FewLabels(50, share=0.5))
    y = data.split("train").y

    assert (y[:150] == -1).all()
    assert (y[150:] >= 0).all()
    assert len(y) == 150 + 150
    assert (data.split("test").y >= 0).all()
    assert data.shape == (8, 8)
    assert data.kind == "image"


def test_the_error_is_that_of_the_examples_with_a_label():
    stack = with_labels(deep_autoencoder([64, 8]))
    rule = LabelledEMRule(stack, TargetPropInference(3))
    x, y, _ = FewDigits().split("valid")
    half = torch.where(torch.arange(len(y)) % 2 == 0, y, -1)
    half[20:40] = -1  # a whole batch

    loaders = [torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, half), 20)]
    (logged,) = Trainer(**QUIET).validate(rule, loaders, verbose=False)

    there = half >= 0
    wrong = stack.predict(x[there]).argmax(1) != y[there]
    assert logged["val/error"] == pytest.approx(wrong.float().mean().item())
