"""The network that is trained: its logits, its draws, its loss, what it keeps on disk."""

import itertools

import pytest
import torch

import gendae
from gendae import checks
from gendae.laws import Discrete
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_classifier
from gendae.models.classifier import Classifier, label_loss, mean_log_probability
from gendae.models.settings import Settings
from gendae.storage.model_file import load, save

KINDS = {"tanh": {}, "bits": {"bits": [1]}, "stochastic": {"stochastic": True}}


def network(kind="tanh", sizes=(6, 5, 4), classes=3):
    """A small classifier in double precision whose biases are not zero."""
    made = deep_classifier(sizes, classes, **KINDS[kind]).double()
    with torch.no_grad():
        for f in made.encoders:
            f.bias.normal_()
    return made


def by_hand(made, x, kind):
    w = [f.weight for f in made.encoders]
    b = [f.bias for f in made.encoders]

    h1 = torch.tanh(x @ w[0].T + b[0])
    if kind == "bits":
        h1 = (h1 > 0).double()

    h2 = torch.tanh(h1 @ w[1].T + b[1])
    return h2 @ w[2].T + b[2]


@pytest.mark.parametrize("kind", ["tanh", "bits"])
def test_logits_are_the_hand_written_network_s(kind):
    made = network(kind)
    x = torch.randn(7, 6).double()
    logits = made(x)
    assert torch.allclose(logits, by_hand(made, x, kind)[None])
    assert torch.allclose(made.predict(x), torch.softmax(logits[0], -1))
    assert made(x, samples=9).shape == (1, 7, 3)  # nothing is drawn: one sample says it all


def exact_probability(made, x):
    """p(y | x) as the sum over all binary states of both layers."""
    p1 = torch.sigmoid(x @ made.pairs[0].f.weight.T + made.pairs[0].f.bias)
    total = torch.zeros(len(x), made.classes).double()
    for h1 in itertools.product([0.0, 1.0], repeat=p1.shape[1]):
        h1 = torch.tensor(h1).double()
        of_h1 = torch.where(h1 > 0, p1, 1 - p1).prod(1)

        p2 = made.pairs[1].f(h1)
        for h2 in itertools.product([0.0, 1.0], repeat=len(p2)):
            h2 = torch.tensor(h2).double()
            of_h2 = torch.where(h2 > 0, p2, 1 - p2).prod()
            total += (of_h1 * of_h2)[:, None] * torch.softmax(made.output(h2), -1)

    return total


def test_mean_of_samples_is_the_expectation_over_all_binary_states():
    made = network("stochastic", (3, 4, 3))
    x = torch.randn(2, 3).double()

    with torch.no_grad():
        made.output.weight.mul_(3.0)
        exact = exact_probability(made, x)
        p = torch.softmax(made(x, 40_000, torch.Generator().manual_seed(1)), -1)

    assert torch.allclose(exact.sum(1), torch.ones(2).double())

    error = (p.mean(0) - exact) / (p.std(0) / 200.0)  # in standard errors
    assert error.abs().max() < 4.0
    assert p.std(0).min() > 0.02
    assert torch.allclose(made.predict(x, 40_000, seed=1), p.mean(0))
    assert made(x, 5).shape == (5, 2, 3)


def test_label_loss_is_minus_log_of_the_mean_probability():
    logits = 4.0 * torch.randn(6, 5, 3).double()
    y = torch.tensor([0, 2, 1, 1, 0])
    p = torch.softmax(logits, -1).mean(0)

    assert torch.allclose(label_loss(logits, y), -p[torch.arange(5), y].log().mean(), rtol=1e-12)
    assert torch.allclose(mean_log_probability(logits), p.log(), rtol=1e-12)
    assert torch.equal(mean_log_probability(logits[:1]), torch.log_softmax(logits[0], -1))

    tiny = torch.tensor([[[0.0, -2000.0]]])
    assert label_loss(tiny, torch.tensor([1])) == 2000.0  # no underflow


@pytest.mark.parametrize(
    ("kind", "levels", "second"),
    [("tanh", [], "real"), ("bits", [1], "bits"), ("stochastic", [1, 2], "real")],
)
def test_discrete_levels(kind, levels, second):
    made = network(kind)
    assert made.discrete_levels == levels
    assert made.stochastic == (kind == "stochastic")
    assert [f.receives for f in made.encoders] == ["real", second, "real"]
    assert [p.g.receives for p in made.pairs] == ["real", second]  # both ways
    assert {p.g.activation for p in made.pairs} == {"tanh"}
    for pair in made.pairs:
        drawn = isinstance(pair.recognition, Discrete) and pair.recognition.stochastic
        assert drawn == (kind == "stochastic")
        assert pair.f.activation == ("sigmoid" if drawn else "tanh")

    above = Affine(4, 3, receives="bits")  # an output layer makes the top discrete, too
    assert Classifier(*made.pairs, output=above).discrete_levels == sorted({*levels, 2})


def test_draws_send_a_straight_through_gradient():
    made = network("stochastic", (3, 4))
    mean = torch.rand(5, 4).double().requires_grad_()
    sent = made.send(made.pairs[0], mean)

    assert set(sent.detach().unique().tolist()) <= {0.0, 1.0}

    weights = torch.randn(5, 4).double()
    (sent * weights).sum().backward()

    assert torch.equal(mean.grad, weights)


def test_predictions_of_deterministic_networks_do_not_depend_on_the_batch(monkeypatch):
    made = network("bits")
    x = torch.randn(25, 6).double()
    whole = made.predict(x)
    monkeypatch.setattr("gendae.models.classifier.BATCH", 4)

    assert torch.allclose(made.predict(x), whole, rtol=1e-12)
    assert torch.allclose(torch.cat([made.predict(row[None]) for row in x]), whole, rtol=1e-12)
    assert made.predict(x[:0]).shape == (0, 3)


def test_predictions_of_stochastic_networks_are_seeded_and_leave_the_global_generator_alone():
    made = network("stochastic")
    x = torch.randn(5, 6).double()
    before = torch.get_rng_state()
    a, b, c = (made.predict(x, 3, seed) for seed in (1, 1, 2))

    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())

    made.settings = Settings(samples=3)
    assert torch.equal(made.predict(x, seed=1), a)  # the number it is meant to be used with


@pytest.mark.parametrize("kind", KINDS)
def test_classifiers_come_back_from_disk(tmp_path, kind):
    made = network(kind).float()
    x = torch.randn(5, 6)
    made.settings = Settings(samples=4)
    again = load(save(made, tmp_path / "model.safetensors"))

    assert type(again) is Classifier
    assert again.settings == Settings(samples=4)
    assert again.discrete_levels == made.discrete_levels
    assert torch.equal(again.predict(x), made.predict(x))

    h = torch.randn(5, 4)
    assert torch.equal(again.pairs[1].g(h), made.pairs[1].g(h))


def under(output):
    return Classifier(Pair(Affine(4, 3), Affine(3, 4)), output=output)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: under(Affine(2, 2)), "the top has 3 units"),
        (lambda: under(Affine(3, 2, "sigmoid")), "linear"),
        (lambda: Classifier(output=Affine(3, 2)), "at least one Pair"),
        (lambda: deep_classifier([5]), "at least two widths"),
        (lambda: deep_classifier([5, 4], classes=0), "out_features=0"),
        (lambda: deep_classifier([5, 4, 3], bits=[2]), r"bits=\[2\]"),
        (lambda: deep_classifier([5, 4, 3], bits=[0]), r"bits=\[0\]"),
        (
            lambda: deep_classifier([5, 4, 3], bits=[1], stochastic=True),
            "stochastic units send bits anyway",
        ),
        (
            lambda: deep_classifier([5, 4, 3], activation="relu", stochastic=True),
            "activation='relu'",
        ),
        (lambda: deep_classifier([5, 4, 3], activation="swish"), "softplus, sigmoid, tanh"),
        (lambda: deep_classifier([5, 4, 3], init="zeros"), "normal, orthogonal, uniform"),
        (lambda: network().predict(torch.zeros(2, 7)), r"\(2, 7\)"),
        (lambda: network("stochastic").predict(torch.zeros(2, 6), samples=0), "samples=0"),
        (lambda: gendae.BackStepRule(deep_classifier([8, 6], 3)), "output layer"),
        (lambda: gendae.KLRule(deep_classifier([8, 6], 3)), "output layer"),
        (lambda: gendae.TargetPropRule(deep_classifier([8, 6], 3)), "output layer"),
        (lambda: gendae.VariationalEMRule(deep_classifier([8, 6], 3)), "output layer"),
    ],
)
def test_bad_classifiers_and_bad_uses_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_labels_of_any_integer_type(kind):
    y = torch.tensor([0, 2]).to(kind)
    assert checks.labels("y", y, 2, 3).dtype == torch.int64
    with pytest.raises(ValueError, match="from 0 to 2; the model has 2 classes"):
        checks.labels("y", y, 2, 2)
