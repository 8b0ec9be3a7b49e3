"""Modalities side by side: the categorical law, kinds of data, slices, masks, heads and laws."""

import pytest
import torch
import torch.nn.functional as F

from gendae import laws
from gendae.corruption import GaussianNoise
from gendae.laws import Bernoulli, Categorical, Discrete, Gaussian, Laws, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.heads import HEADS, Heads
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.models.joint import JointStack, present
from gendae.models.modalities import (
    KINDS,
    EachModality,
    Identity,
    Junction,
    Masked,
    Modality,
    Slices,
    side_by_side,
)
from gendae.registry import build, describe
from gendae.rules.kl import KLRule

P = torch.tensor([[0.5, 0.2, 0.3], [0.0, 0.9, 0.1]], dtype=torch.float64)
HEADED = Heads(Affine(3, 2), ["linear", "tanh"], [1, 1])
YES = True
NO = False


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(7))


def junction(f, g):
    return Junction(f, g).pair([Modality(6, "pixels", [pair(6, 4)]), Modality(3, "onehot")])


def pair(low, high, activation="tanh", visible="linear", **laws):
    return Pair(Affine(low, high, activation), Affine(high, low, visible), **laws).double()


# -- the categorical law -------------------------------------------------------------------------


def test_the_categorical_law_is_torch_s_and_its_energy_the_cross_entropy():
    logits = normal(6, 4)
    p = torch.softmax(logits, 1)
    target = torch.softmax(normal(6, 4).flip(0), 1)
    rows = torch.eye(4, dtype=torch.float64)[[0, 3, 1, 2, 2, 0]]
    law = torch.distributions.OneHotCategorical(probs=p)

    expected = F.cross_entropy(logits, target, reduction="none")
    assert torch.allclose(Categorical().energy(target, p), expected)
    assert torch.allclose(Categorical().log_prob(rows, p), law.log_prob(rows))
    assert torch.allclose(Categorical().entropy(p), law.entropy())
    assert torch.allclose(Categorical().distribution(p).log_prob(rows), law.log_prob(rows))


def test_probability_zero_costs_a_finite_energy_and_no_entropy():
    law = Categorical()
    sure = torch.tensor([[0.0, 1.0]])
    assert law.energy(torch.tensor([[1.0, 0.0]]), sure).item() == pytest.approx(69.08, abs=0.01)
    assert law.entropy(sure).item() == 0.0


def test_draws_are_one_hot_rows_with_the_given_frequencies():
    n = 100_000
    draws = Categorical().sample(P.repeat(n, 1), seeded()).view(n, 2, 3)

    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(draws.sum(-1), torch.ones(n, 2).double())
    assert torch.allclose(draws.mean(0), P, atol=0.006)
    assert draws[:, 1, 0].sum() == 0

    wide = Categorical().sample(P.expand(4, 2, 3), seeded())
    assert wide.shape == (4, 2, 3)
    assert Categorical().transmit(P) is P


def test_a_class_of_probability_zero_is_never_drawn(monkeypatch):
    p = torch.tensor([[0.0, *[1 / 41] * 41]])  # float32 sums to 1 - 2^-24
    largest = 1.0 - 2.0**-24
    monkeypatch.setattr(laws, "uniform_like", lambda h, generator: torch.full_like(h, largest))
    assert Categorical().sample(p)[0, 0] == 0.0


# -- one modality --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "head", "law"),
    [
        ("real", "linear", Gaussian),
        ("pixels", "sigmoid", Bernoulli),
        ("binary", "sigmoid", Bernoulli),
        ("onehot", "softmax", Categorical),
        ("latent", "softmax", Categorical),
    ],
)
def test_a_kind_of_data_has_its_activation_and_law(kind, head, law):
    modality = Modality(4, kind)
    assert (modality.head, type(modality.law), modality.code_width) == (head, law, 4)
    assert kind in KINDS


def test_a_code_has_the_activation_and_the_law_of_its_encoder():
    learned = Modality(
        4, "pixels", [pair(4, 3), pair(3, 2, "relu", recognition=LearnedGaussian(2))]
    )
    assert (learned.head, type(learned.law), learned.code_width) == ("relu", Gaussian, 2)

    bits = Modality(4, "pixels", [pair(4, 3, "sigmoid", recognition=Discrete("binary"))])
    assert (bits.head, bits.law) == ("sigmoid", bits.pairs[0].recognition)


def test_values_become_rows_of_floating_point_numbers():
    label = Modality(3, "onehot")
    for dtype in (torch.int64, torch.int32, torch.uint8):
        rows = label.values("y", torch.tensor([2, 0], dtype=dtype))
        assert torch.equal(rows, torch.eye(3)[[2, 0]])

    assert torch.equal(label.values("y", torch.eye(3).long()), torch.eye(3))

    soft = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64)
    assert label.values("y", soft) is soft

    edge = torch.tensor([[0, 1], [1, 0]])
    assert torch.equal(Modality(2, "pixels").values("x", edge), edge.float())

    large = torch.tensor([[-5.0, 1e6]])
    assert Modality(2, "real").values("x", large) is large
    assert Modality(2, "pixels").values("x", torch.rand(0, 2)).shape == (0, 2)


SHAPE = r"t has shape \({}\); the model takes \(batch, 3\)"
UNIT = r"no {} data; accepted: values in \[0, 1\]"
MASK_BITS = r"takes {} units; .* \[3, 2\], together 5, or 7 with one mask bit"


@pytest.mark.parametrize(
    ("modality", "value", "words"),
    [
        (Modality(3, "pixels"), torch.rand(2, 4), SHAPE.format("2, 4")),
        (Modality(3, "pixels"), torch.rand(3), SHAPE.format("3,")),
        (Modality(3, "pixels"), torch.full((2, 3), 255.0), "t holds values from 255 .* divide by"),
        (Modality(3, "binary"), torch.full((2, 3), -0.1), UNIT.format("binary")),
        (Modality(3, "real"), torch.full((2, 3), torch.inf), "t holds 6 NaN or infinite values"),
        (
            Modality(3, "onehot"),
            torch.tensor([[torch.nan, 0.0, 1.0]]),
            "t holds 1 NaN or infinite values",
        ),
        (
            Modality(3, "onehot"),
            torch.tensor([0, 3]),
            "t holds labels from 0 to 3; the model has 3 classes, 0 .. 2",
        ),
        (Modality(3, "onehot"), torch.tensor([YES, NO]), "class indices of an integer type"),
        (Modality(3, "onehot"), torch.tensor([0.0, 1.0]), r"t has shape \(2,\)"),
        (
            Modality(3, "onehot"),
            torch.ones(2, 3),
            "class indices, or rows of probabilities that sum to 1",
        ),
        (
            Modality(3, "latent"),
            torch.zeros(2, 3),
            "no latent data; accepted: class indices, or rows",
        ),
        (Modality(3, "onehot"), torch.tensor([[1.5, -0.5, 0.0]]), "no onehot data"),
    ],
)
def test_other_values_are_refused_in_one_line(modality, value, words):
    with pytest.raises(ValueError, match=words) as error:
        modality.values("t", value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Modality(0), "width=0"),
        (
            lambda: Modality(3, "sound"),
            "kind='sound' is unknown; accepted: real, pixels, binary, onehot",
        ),
        (
            lambda: Modality(3, "real", [pair(4, 2)]),
            "pair 1 of a modality takes 4 units, but gets 3",
        ),
        (
            lambda: Modality(4, "real", [pair(4, 2), pair(3, 2)]),
            "pair 2 of a modality takes 3 units, but gets 2",
        ),
        (lambda: Modality(3, "latent", [pair(3, 2)]), "without pairs of their own"),
        (
            lambda: Modality(3, "real", [Pair(HEADED, Affine(2, 3))]),
            "the encoder of its last pair is Heads, with several; give each block a Modality",
        ),
        (lambda: Masked(Affine(4, 4), [3, 2]), MASK_BITS.format(4)),
        (lambda: Masked(Affine(6, 4), [3, 2]), MASK_BITS.format(6)),
        (lambda: Masked(Affine(8, 4), [3, 2]), MASK_BITS.format(8)),
        (
            lambda: Heads(Affine(6, 10), ["slices"], [10]),
            "activation='slices' is unknown; accepted: .*softmax",
        ),
        (
            lambda: Laws([Gaussian()], [2]).distribution(normal(1, 2)),
            "no single torch distribution; use log_prob, sample",
        ),
        (
            lambda: EachModality([GaussianNoise(0.5)], [2, 3]),
            "corruptions has 1 entries for 2 modalities",
        ),
        (
            lambda: junction(Affine(8, 5), Affine(5, 7)),
            r"takes 8 units; the modalities' codes have \[4, 3\], together 7, or 9",
        ),
        (
            lambda: junction(Affine(9, 5), Affine(5, 9)),
            "gives 9 units, linear; needed: a linear layer of 7",
        ),
        (
            lambda: junction(Affine(9, 5), Affine(5, 7, "tanh")),
            "gives 7 units, tanh; needed: a linear layer of 7",
        ),
        (
            lambda: junction(Affine(9, 5), Affine(4, 7)),
            "f maps 7 -> 5 units but g maps 4 -> 7",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([[torch.nan, torch.nan], [torch.nan, 1.0], [0.0, 0.0]]), [NO, YES, YES]),
        (torch.full((2, 2, 3), torch.nan), [NO, NO]),
        (torch.tensor([-1, 0, 2]), [NO, YES, YES]),
        (torch.full((2, 3), -1), [YES, YES]),
        (torch.tensor([255, 3], dtype=torch.uint8), [YES, YES]),
    ],
    ids=["rows", "images", "labels", "rows of integers", "unsigned labels"],
)
def test_rows_of_nan_and_the_label_minus_one_are_missing(values, expected):
    assert present(values).tolist() == expected


# -- maps ----------------------------------------------------------------------------------------


def test_slices_act_on_their_own_part():
    f = Affine(3, 2, "tanh").double()
    h = normal(5, 7)
    both = Slices([f, None], [99, 4])

    assert (both.in_features, both.out_features) == (7, 6)
    assert (both.inputs, both.outputs) == ([3, 4], [2, 4])
    assert torch.equal(both(h), torch.cat([f(h[:, :3]), h[:, 3:]], 1))
    assert {name for name, _ in both.named_parameters()} == {"maps.0.weight", "maps.0.bias"}


def test_missing_slices_have_no_influence():
    f = Masked(Affine(5 + 2, 4, "tanh"), [3, 2]).double()
    h = normal(6, 5)
    observed = torch.tensor([[YES, NO], [NO, YES]]).repeat(3, 1)
    other = torch.where(observed[:, f.owner], h, 100.0 * normal(6, 5))

    assert torch.equal(f(h, observed), f(other, observed))
    assert not torch.equal(f(h), f(other))

    free = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(free, observed).sum(), free)
    assert torch.equal(gradient != 0, observed[:, [0, 0, 0, 1, 1]])


def test_mask_bits_are_seen():
    f = Masked(Affine(5 + 2, 4), [3, 2]).double()
    h = normal(4, 5)
    w = f.f.weight
    observed = torch.tensor([[YES, NO], [NO, YES], [NO, NO], [YES, YES]])
    shown = h * observed[:, [0, 0, 0, 1, 1]]

    assert torch.allclose(f(h, observed), shown @ w[:, :5].T + observed.double() @ w[:, 5:].T)
    assert torch.allclose(f(h), h @ w[:, :5].T + w[:, 5:].sum(1))
    assert torch.equal(f(h)[3], f(h, observed)[3])


def test_without_mask_bits_a_missing_slice_is_zero():
    f = Masked(Affine(5, 4), [3, 2]).double()
    h = normal(2, 5)
    observed = torch.tensor([[YES, NO], [YES, YES]])

    assert not f.sees_mask
    assert torch.allclose(f(h, observed)[0], h[0, :3] @ f.f.weight[:, :3].T)
    assert torch.equal(f(h), f.f(h))
    assert list(f.state_dict()) == ["f.weight", "f.bias"]


def test_each_slice_has_its_own_activation():
    names = ["linear", "sigmoid", "softmax", "tanh", "relu"]
    g = Affine(6, 10).double()
    h = normal(3, 6)
    heads = Heads(g, names, [2] * 5)(h).split(2, -1)
    parts = g(h).split(2, -1)
    s = [lambda a: a, torch.sigmoid, lambda a: a.softmax(-1), torch.tanh, torch.relu]

    for name, head, a, expected in zip(names, heads, parts, s, strict=True):
        assert torch.equal(head, expected(a)), name
    assert set(names) < set(HEADS)


# -- laws ----------------------------------------------------------------------------------------


def laws_of_three():
    laws = [
        LearnedGaussian(2, 0.5, given=4).double(),
        Categorical(),
        Discrete("sign", stochastic=True),
    ]
    torch.nn.init.normal_(laws[0].of_input[-1].weight)

    mean = torch.cat([normal(5, 2), normal(5, 3).softmax(1), normal(5, 2).tanh()], 1)
    h = torch.cat([normal(5, 2), torch.eye(3).double()[[0, 1, 2, 0, 1]], normal(5, 2).sign()], 1)

    return laws, Laws(laws, [2, 3, 2], [4, 3, 2]), h, mean, normal(5, 9)


def test_joint_laws_are_sums_and_concatenations_of_their_members():
    (a, b, c), joint, h, mean, given = laws_of_three()
    h1, h2, h3 = h.split([2, 3, 2], 1)
    m1, m2, m3 = mean.split([2, 3, 2], 1)
    x = given[:, :4]

    energies = [a.energy(h1, m1, x), b.energy(h2, m2), c.energy(h3, m3)]
    assert torch.equal(joint.energies(h, mean, given), torch.stack(energies, 1))
    assert torch.allclose(joint.energy(h, mean, given), energies[0] + energies[1] + energies[2])

    log_prob = a.log_prob(h1, m1, x) + b.log_prob(h2, m2) + c.log_prob(h3, m3)
    assert torch.allclose(joint.log_prob(h, mean, given), log_prob)

    entropy = a.entropy(m1, x) + b.entropy(m2) + c.entropy(m3)
    assert torch.allclose(joint.entropy(mean, given), entropy)

    g = seeded(3)
    drawn = torch.cat([a.sample(m1, g, x), b.sample(m2, g), c.sample(m3, g)], 1)
    assert torch.equal(joint.sample(mean, seeded(3), given), drawn)
    assert torch.equal(joint.transmit(mean), torch.cat([m1, m2, c.transmit(m3)], 1))

    sent = joint.transmit(mean, seeded(3))
    assert torch.equal(sent[:, 5:], c.transmit(m3, seeded(3)))

    real = Laws([Gaussian(2.0), b, Identity()], [2, 3, 2])
    noise = torch.randn(5, 2, dtype=torch.float64, generator=seeded(3))
    expected = torch.cat([m1 + 0.5 * 2.0 * noise, m2, m3], 1)
    assert torch.allclose(real.noisy(mean, 0.5, seeded(3)), expected)


def test_joint_laws_have_the_parameters_and_the_kind_of_their_members():
    laws, joint, _, mean, given = laws_of_three()
    both = side_by_side([pair(4, 2, recognition=laws[0]), None], [2, 3])
    (gradient,) = torch.autograd.grad(joint.entropy(mean, given).sum(), laws[0].log_sigma)

    assert set(joint.parameters()) == set(laws[0].parameters())
    assert "recognition.learned.0.log_sigma" in dict(both.named_parameters())
    assert torch.allclose(gradient, torch.full((2,), 5.0).double())

    quiet = Discrete("sign")
    signs = Laws([quiet, quiet], [2, 2])
    assert (signs.stochastic, signs.hard, signs.drawn, signs.learnable) == (NO, YES, NO, NO)
    assert (signs.discrete, Laws([Gaussian(), quiet], [1, 1]).discrete) == (YES, NO)
    assert signs.variance(mean[:, :4]) is None
    spread = Laws([laws[0], LearnedGaussian(2, 0.5).double()], [2, 2]).variance(
        mean[:, :4], given[:, :4]
    )
    assert torch.equal(spread[:, :2], laws[0].variance(mean[:, :2], given[:, :4]))
    assert torch.allclose(spread[:, 2:], torch.full((5, 2), 0.25).double())

    mixed = Laws([quiet, Categorical()], [2, 2])
    assert (mixed.stochastic, mixed.hard, mixed.drawn, mixed.learnable) == (YES, YES, YES, NO)


def test_kl_trains_discrete_units_beside_a_modality_with_noise():
    """On a plain stack of deterministic units KLRule leaves the entropy out."""
    image = Modality(6, "pixels", [pair(6, 4, visible="sigmoid", recognition=Discrete("sign"))])
    members = {"image": image, "label": Modality(3, "onehot")}
    joint = JointStack(members, [Junction(Affine(9, 5), Affine(5, 7))]).double()
    rule = KLRule(joint)
    x = torch.rand(8, 9).double()
    rule.fit_prior([(x,)])

    losses = rule.losses((x,))

    assert torch.isfinite(sum(losses.values()))


# -- corruption, the junction, pairs side by side ------------------------------------------------


def test_each_modality_has_its_own_corruption():
    noise = GaussianNoise(0.5, decay=0.2)
    h = normal(4, 5)
    noisy = EachModality([None, noise], [2, 3])(h, 0.5, seeded(2))

    assert torch.equal(noisy, torch.cat([h[:, :2], noise(h[:, 2:], 0.5, seeded(2))], 1))

    again = build(describe(EachModality([None, noise], [2, 3])))
    assert torch.equal(again(h, 0.5, seeded(2)), noisy)


def test_a_junction_joins_codes_with_their_heads_and_laws():
    image = Modality(6, "pixels", [pair(6, 4)])
    label = Modality(3, "onehot")
    law = Discrete("binary")
    joined = Junction(Affine(9, 5, "sigmoid"), MLP(5, [8], 7), law).pair([image, label])

    assert (joined.f.in_features, joined.f.sees_mask, joined.recognition) == (7, YES, law)
    assert [type(own) for own in joined.observation.laws] == [Gaussian, Categorical]

    below = joined.g.double()(normal(2, 5))
    assert torch.allclose(below[:, 4:].sum(1), torch.ones(2).double())
    assert torch.equal(below[:, :4], joined.g.g(normal(2, 5))[:, :4].tanh())
    assert type(Junction(Affine(7, 5), Affine(5, 7)).pair([image, label]).recognition) is Gaussian


def test_pairs_side_by_side_act_as_one():
    a = pair(4, 2, "tanh", "sigmoid", observation=Bernoulli())
    both = side_by_side([a, None], [2, 3])
    x = normal(5, 7)
    h = normal(5, 5)

    assert torch.equal(both.encode(x), torch.cat([a.encode(x[:, :4]), x[:, 4:]], 1))
    assert torch.equal(both.decode(h), torch.cat([a.decode(h[:, :2]), h[:, 2:]], 1))

    binary = torch.cat([x[:, :4].sigmoid(), x[:, 4:]], 1)
    expected = a.observation.energy(binary[:, :4], a.g(h[:, :2]))
    expected = expected + Gaussian().energy(x[:, 4:], h[:, 2:])
    assert torch.allclose(both.observation.energy(binary, both.g(h)), expected)
    assert side_by_side([a], [2]) is a
