"""The loop of differences: with exact feedback it is back-propagation of the loop's loss."""

from functools import partial

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.laws import Bernoulli, Categorical, Discrete, Gaussian, Laws, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.heads import Heads
from gendae.layers.pair import Pair, TiedPair
from gendae.layers.wrapped import Wrapped
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.registry import arguments, build, describe
from gendae.rules import credit
from gendae.rules.chain import clean
from gendae.rules.differences import DifferenceLoop
from gendae.rules.direct import DirectDifference
from gendae.rules.feedback import Exact, Partners
from gendae.rules.inverses import Inverses
from gendae.rules.kl import KLRule
from gendae.rules.loops import PairLoops
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.transposes import LocalDifference
from tests.conftest import at
from tests.rules.test_base import trainer
from tests.rules.test_joint import assert_at_sent

FEEDBACK = [Exact, Inverses, LocalDifference, Partners]


def x_of(n=20, width=12):
    return torch.rand(n, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def stack_of(**options):
    torch.manual_seed(0)
    options = {"activations": ["tanh", "softplus"], **options}
    return deep_autoencoder([12, 8, 6], **options).double()


def drawn(unit):
    return stack_of(activations=None, units=unit, stochastic=True)


def wrapped():
    """Maps that are no s(W h + b), and classes as x."""
    torch.manual_seed(0)
    f = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 6))
    g = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 12))
    g = torch.nn.Sequential(*g, torch.nn.Softmax(-1))
    top = Pair(Affine(6, 4, "sigmoid"), Affine(4, 6))
    return Stack(Pair(f, Wrapped(g, None, "softmax"), Categorical()), top).double()


def under(prior):
    stack = stack_of(prior=prior)
    stack.prior.fit(stack.encode(x_of())[-1].detach())
    return stack


def mixed():
    """4 real units and 2 signs above 8 real ones."""
    torch.manual_seed(0)
    head = Heads(Affine(8, 6), ["linear", "tanh"], [4, 2])
    laws = Laws([Gaussian(), Discrete("sign")], [4, 2])
    top = Pair(head, Affine(6, 8), recognition=laws)
    prior = GaussianPrior("full", 1.0)
    return Stack(Pair(Affine(12, 8, "tanh"), Affine(8, 12)), top, prior=prior).double()


def variational(**options):
    """A top whose noise learns its width."""
    stack = stack_of(noise=[None, 0.4], observation="bernoulli", **options)
    law = stack.pairs[-1].recognition
    if law.of_input is not None:
        torch.nn.init.normal_(law.of_input[-1].weight, std=0.3)
    return stack


STACKS = {
    "affine": (stack_of, "normal"),
    "relu": (lambda: stack_of(activations=["relu", "linear"]), "normal"),
    "mlps": (lambda: stack_of(hidden_f=[9], hidden_g=[7, 5], observation="bernoulli"), "normal"),
    "tied": (lambda: Stack(TiedPair(12, 8), TiedPair(8, 6)).double(), "normal"),
    "modules": (wrapped, "normal"),
    "signs": (lambda: stack_of(activations=None, units="sign"), "normal"),
    "drawn bits": (lambda: drawn("binary"), "normal"),
    "drawn signs": (lambda: drawn("sign"), "normal"),
    "mixed": (mixed, "normal"),
    "under a Gaussian": (lambda: under(GaussianPrior("full", 1.0)), "prior"),
    "under a window": (lambda: under(ParzenPrior()), "prior"),
    "learned width": (lambda: variational(), "normal"),
    "learned width, of x": (lambda: variational(noise_of_x=True), "normal"),
    "learned width, mlps": (lambda: variational(hidden_f=[9], hidden_g=[7, 5]), "normal"),
}
LEARNED = [name for name in STACKS if name.startswith("learned")]


@pytest.mark.parametrize("name", STACKS)
def test_exact_feedback_is_back_propagation_of_the_loop_s_loss(name):
    """Noise at every level, draws and the prior's pull included."""
    make, pull = STACKS[name]
    stack = make()
    noise = [GaussianNoise(sigma) for sigma in (0.1, 0.2, 0.3)]
    if name in LEARNED:
        noise = None
    rule = TargetPropRule(
        stack, DifferenceLoop(Exact(), prior_weight=0.3, pull=pull, start=0), noise
    )
    parameters = [p for pair in stack.pairs for p in pair.parameters()]

    local = torch.autograd.grad(sum(rule.losses((x_of(),), at(1)).values()), parameters)
    exact = torch.autograd.grad(rule.global_loss((x_of(),), at(1)), parameters)

    for ours, theirs in zip(local, exact, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-13)
    assert credit.angles(rule, x_of()).cosine == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("given", [None, 5])
def test_a_drawn_top_is_a_variational_auto_encoder(given):
    """The bound in closed form, its gradient to the last digit: Algorithm 1 of one pair."""
    torch.manual_seed(1)
    law = LearnedGaussian(3, 0.4, given=given)
    if given is not None:
        torch.nn.init.normal_(law.of_input[-1].weight, std=0.3)
    pair = Pair(Affine(5, 3), Affine(3, 5, "sigmoid"), Bernoulli(), law)
    stack = Stack(pair, prior=GaussianPrior("identity", 1.0)).double()
    x = torch.rand(20, 5, dtype=torch.float64)

    loop = DifferenceLoop(Exact(), prior_weight=1.0, start=0)
    rule = TargetPropRule(stack, loop)
    ours = torch.autograd.grad(sum(rule.losses((x,), at(1)).values()), list(pair.parameters()))
    bound = sum(KLRule(stack, alpha=1.0).losses((x,), at(1)).values())
    theirs = torch.autograd.grad(bound, list(pair.parameters()))

    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-13)
    assert rule.global_loss((x,), at(1)).item() == pytest.approx(bound.item(), abs=1e-9)

    many = torch.rand(4000, 5, dtype=torch.float64)
    rule.fit_residuals(many)
    sigma = law.variance(*reversed(stack.encode(many)[-2:])).mean(0).sqrt()
    assert torch.allclose(stack.noises.to(sigma), sigma, rtol=0.1)


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_feedback_of_no_displacement_is_none(feedback):
    """x^ = x and no pull: b_l(0) = c_l(0) = 0, so that no map is asked to move."""
    stack = stack_of()
    loop = DifferenceLoop(feedback(), prior_weight=0.0)
    loop.prepare(stack)
    chain = loop.chain(stack)

    states = chain.run(x_of(), clean, Moment())
    energies = chain.links[-1].energy(states[-1].sent, states[-1].output)
    moves = loop.displacements(stack, chain, energies, states)

    assert all(move.abs().max() == 0 for move in moves)


def test_displacements_by_partners_are_the_papers():
    """Written out: Eq. 12 of 2015 on the way up, Eq. 3.15 of Lee on the way down."""
    stack = stack_of(observation="bernoulli")
    (f1, g1), (f2, g2) = ((p.f, p.g) for p in stack.pairs)
    x = x_of()
    loop = DifferenceLoop(Partners(), step=0.2, prior_weight=0.5)
    loop.prepare(stack)
    chain = loop.chain(stack)
    states = chain.run(x, clean, Moment())
    energies = chain.links[-1].energy(x, states[-1].output)
    moves = loop.displacements(stack, chain, energies, states)

    h1 = f1(x)
    h2 = f2(h1)
    d1 = g2(h2)
    x_hat = g1(d1)
    delta0 = 0.2 * (x - x_hat)
    delta1 = f1(x_hat + delta0) - f1(x_hat)
    delta2 = f2(d1 + delta1) - f2(d1)
    eps2 = delta2 - 0.2 * 0.5 * h2
    eps1 = g2(h2 + eps2) - g2(h2)

    for ours, theirs in zip(moves, (eps1, eps2, delta1, delta0), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("pull", ["normal", "prior"])
def test_n_0_i_pulls_at_the_real_units_of_a_mixed_code(pull):
    stack = mixed()
    stack.prior.fit(stack.encode(x_of())[-1].detach())
    x = x_of()
    tops = []
    for kl in (0.0, 0.5):
        loop = DifferenceLoop(Exact(), step=0.2, prior_weight=kl, pull=pull)
        loop.prepare(stack)
        chain = loop.chain(stack)
        states = chain.run(x, clean, Moment())
        energies = chain.links[-1].energy(x, states[-1].output)
        tops.append(loop.displacements(stack, chain, energies, states)[chain.climb - 1])

    code = states[chain.climb - 1].sent
    wanted = stack.prior.score(code)
    if pull == "normal":
        wanted = torch.cat([-code[:, :4], torch.zeros_like(code[:, 4:])], 1)
    assert torch.allclose(tops[1] - tops[0], 0.2 * 0.5 * wanted, atol=1e-12)


# -- feedback that learns ------------------------------------------------------------------------


def aligned(feedback, activation, updates=300):
    """The learned B' of a map tanh(W h + b), and its stack, after updates on one batch."""
    torch.manual_seed(0)
    stack = Stack(
        Pair(Affine(6, 5, "tanh"), Affine(5, 6)),
        Pair(Affine(5, 4, activation), Affine(4, 5)),
    ).double()
    loop = DifferenceLoop(feedback, align=updates)
    rule = TargetPropRule(stack, loop, rates=Rates(feedback=3e-2))
    optimizer = rule.configure_optimizers()
    x = 2.0 * torch.randn(400, 6, dtype=torch.float64)
    before = [p.detach().clone() for p in stack.parameters()]

    for update in range(updates):
        moment = Moment(update / updates, update=update)
        rule.begin_update(optimizer, moment)
        optimizer.zero_grad()
        losses = rule.losses((x,), moment)
        assert all(name.startswith("feedback") for name in losses)
        sum(losses.values()).backward()
        optimizer.step()

    assert all(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))
    return feedback.layers["1"].weight.detach(), stack, x


def test_local_differences_learn_the_transposed_weights():
    B, stack, _ = aligned(LocalDifference(tracks=False, rows=400), "tanh")
    W = stack.pairs[1].f.weight.detach()

    assert (B - W).norm() < 0.04 * W.norm()


def test_without_derivatives_they_learn_the_mean_jacobian():
    B, stack, x = aligned(LocalDifference(derivative=False, tracks=False, rows=400), "tanh")
    W = stack.pairs[1].f.weight.detach()
    h = stack.encode(x)[2].detach()
    expected = ((1.0 - h.square())[:, :, None] * W).mean(0)  # E[J], up to O(sigma^2)

    assert (B - expected).norm() < 0.04 * expected.norm()
    assert (B - W).norm() > 0.1 * W.norm()


@pytest.mark.parametrize("tracks", [False, True])
def test_tracking_feedback_receives_the_changes_of_the_weights(tracks):
    torch.manual_seed(0)
    stack = stack_of()
    feedback = LocalDifference(tracks=tracks)
    TargetPropRule(stack, DifferenceLoop(feedback))
    layer = feedback.layers["1"]
    B = layer.weight.detach().clone()
    cosine = torch.cosine_similarity(B.flatten(), stack.pairs[1].f.weight.flatten(), 0)
    change = torch.randn_like(stack.pairs[1].f.weight)

    with torch.no_grad():
        stack.pairs[1].f.weight += change

    assert cosine.abs() < 0.5  # it starts at random
    assert torch.allclose(layer.weight - B, change if tracks else torch.zeros_like(B))
    assert layer.difference.requires_grad


@pytest.mark.parametrize("shared", ["loop", "feedback"])
@pytest.mark.parametrize(
    "feedback", [Inverses, LocalDifference, partial(DirectDifference, 0.1, 3)]
)
def test_feedback_that_learns_serves_one_rule(feedback, shared):
    """A second one would take its layers from the first, which learns on as it was."""
    feedback = feedback()
    loops = [DifferenceLoop(feedback), DifferenceLoop(feedback)]
    if shared == "loop":
        loops = [loops[0], loops[0]]
    rule = TargetPropRule(stack_of(), loops[0])
    before = {name: value.clone() for name, value in rule.state_dict().items()}

    with pytest.raises(ValueError, match=f"feedback={type(feedback).__name__} serves another"):
        TargetPropRule(deep_autoencoder([5, 4, 3]), loops[1])

    torch.testing.assert_close(rule.state_dict(), before, rtol=0.0, atol=0.0)
    assert rule.losses((x_of(),))


def test_a_loop_of_a_rule_that_was_refused_is_free_for_the_next():
    loop = DifferenceLoop()
    with pytest.raises(ValueError, match="sparsity=-1"):
        TargetPropRule(stack_of(), loop, sparsity=-1)

    assert TargetPropRule(stack_of(), loop).loop is loop


@pytest.mark.parametrize("name", ["affine", "mlps", "modules", "signs", "mixed"])
def test_inverses_learn_from_what_their_maps_send(name):
    make, _ = STACKS[name]
    stack = make()
    loop = DifferenceLoop(Inverses(0.0))
    loop.prepare(stack)
    chain = loop.chain(stack)
    states = chain.run(x_of(), clean, Moment())

    losses = loop.feedback.losses(chain, states, Moment())
    assert_at_sent(losses, loop.feedback, chain, states)


# -- stages --------------------------------------------------------------------------------------


def test_feedback_aligns_first_then_pairs_learn_then_the_loop():
    rule = TargetPropRule(stack_of(), DifferenceLoop(LocalDifference(every=4), start=6, align=3))

    def learns(update):
        losses = rule.losses((x_of(),), Moment(update=update))
        return {name.split("_")[0] for name in losses}

    assert learns(0) == learns(2) == {"feedback"}
    assert learns(3) == learns(8) == {"feedback", "pair"}
    assert learns(9) == learns(11) == {"lack"}
    assert learns(12) == learns(None) == {"feedback", "lack"}


def test_pairs_at_the_start_have_the_noise_that_the_user_names():
    """Noise of the top alone is none of the first pair's; the loop's own stands on every code."""
    stack = stack_of()
    noise = [GaussianNoise(0.0), GaussianNoise(0.0), GaussianNoise(0.5)]
    alone = TargetPropRule(stack, PairLoops(), noise).losses((x_of(),), at(1))

    def started(noise):
        rule = TargetPropRule(stack, DifferenceLoop(Exact()), noise)
        return rule.losses((x_of(),), at(1, update=0))

    assert torch.equal(started(noise)["pair_1"], alone["pair_1"])
    assert not torch.allclose(started(None)["pair_1"], alone["pair_1"])


def test_a_checkpoint_tells_the_user_s_noise_from_the_loop_s_own():
    noise = [GaussianNoise(0.1), GaussianNoise(0.2), GaussianNoise(0.3)]
    described = [arguments(TargetPropRule(stack_of(), corruption=c)) for c in (None, noise)]

    assert described[0]["corruption"] is None
    assert [c["sigma"] for c in described[1]["corruption"]] == [0.1, 0.2, 0.3]


def test_the_optimizer_forgets_the_pairs_when_the_loop_begins():
    """Adam's count of steps begins anew for the maps, and goes on for their feedback."""
    torch.manual_seed(0)
    stack = deep_autoencoder([64, 8, 4])
    rule = TargetPropRule(stack, DifferenceLoop(LocalDifference(every=1), start=4))
    fit = trainer(max_epochs=1, limit_train_batches=7, limit_val_batches=0)
    fit.fit(rule, Digits())

    state = rule.optimizers().optimizer.state
    steps = {name: int(state[p]["step"]) for name, p in rule.named_parameters() if p in state}

    assert {n for name, n in steps.items() if name.startswith("stack")} == {3}
    assert {n for name, n in steps.items() if name.startswith("loop")} == {7}


def test_pairs_alone_are_auto_encoders_of_their_inputs():
    stack = stack_of()
    noise = [GaussianNoise(0.0)] * 3
    losses = TargetPropRule(stack, PairLoops(), noise).losses((x_of(),))

    h = stack.encode(x_of())
    for level, pair in enumerate(stack.pairs, 1):
        error = (h[level - 1] - pair.g(h[level])).square().sum(1).mean() / 2
        assert torch.allclose(losses[f"pair_{level}"], error)


# -- depth trains --------------------------------------------------------------------------------


def digits(loop, frozen=False, units=None):
    """Reconstruction in nats and read-out of the top code in per cent, after 15 epochs."""
    torch.manual_seed(0)
    sizes = [64, 60, 60, 30] if units else [64, 60, 60, 8]
    activations = None if units else ["tanh", "tanh", "linear"]
    stack = deep_autoencoder(
        sizes, activations, observation="bernoulli", units=units, init="orthogonal"
    )
    rates = Rates(f=0.0 if frozen else 3e-3, g=3e-3, hold=0.5)
    rule = TargetPropRule(stack, loop, rates=rates)
    trainer(max_epochs=15, limit_val_batches=0).fit(rule, Digits())

    x, y, _ = Digits().split("valid")
    train = Digits().split("train")
    codes = stack.encode(train.x)[-1].detach()
    reader = LogisticRegression(max_iter=500).fit(codes, train.y)
    read_out = 100 * reader.score(stack.encode(x)[-1].detach(), y)

    return rule.global_loss((x,), at(0)).item(), read_out


@pytest.mark.parametrize("units", [None, "sign"])
def test_encoders_of_three_pairs_learn(units):
    """The control is the same network with its encoders frozen at random."""
    frozen_loss, frozen_read_out = digits(DifferenceLoop(start=0), frozen=True, units=units)
    loss, read_out = digits(DifferenceLoop(start=100), units=units)

    assert loss < frozen_loss - 1.0
    assert read_out > frozen_read_out + 2.0


def test_the_weight_of_the_prior_was_once_called_kl():
    """Descriptions of earlier versions are understood."""
    described = describe(DifferenceLoop(prior_weight=0.3))
    described["kl"] = described.pop("prior_weight")
    assert build(described).prior_weight == 0.3
