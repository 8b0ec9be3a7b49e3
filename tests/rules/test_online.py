"""Networks in continuous operation and their delta rules: closed forms, limits, and what holds."""

import tracemalloc
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gendae.corruption import GaussianNoise
from gendae.laws import Bernoulli
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair, TiedPair
from gendae.models.architectures import deep_autoencoder
from gendae.models.delay import DelayNetwork, SymmetricDelayNetwork
from gendae.models.stack import Stack
from gendae.rules.loops import LoopWeights, ShortAndLongLoops
from gendae.rules.moment import Moment
from gendae.rules.online import (
    Average,
    DeltaPlasticity,
    OnlineDeltaRule,
    Presentation,
    TemporalPlasticity,
    map_of,
)
from gendae.rules.rates import Rates
from gendae.rules.targetprop import TargetPropRule
from tests.conftest import at
from tests.rules.test_supervised import cosine

ROWS = 6


def binary_stack(sizes=(7, 6, 5)):
    """Sigmoid units everywhere, whose delta rule is the gradient of cross-entropy."""
    pairs = []
    for low, high in pairwise(sizes):
        f = Affine(low, high, "sigmoid")
        g = Affine(high, low, "sigmoid")
        pairs.append(Pair(f, g, observation=Bernoulli(), recognition=Bernoulli()))

    stack = Stack(*pairs).double()
    for name, parameter in stack.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return stack


def images(width=7, rows=ROWS):
    return torch.rand(rows, width, dtype=torch.float64)


def course(network, plasticity, stimuli, labels=None, now=None, traces=None):
    """Activities and changes of a stream, tick by tick."""
    now = now or network.rest(ROWS)
    traces = traces or plasticity.start()
    labels = labels or [None] * len(stimuli)

    story = []
    for x, y in zip(stimuli, labels, strict=True):
        before = now
        now = network.tick(before, x, y)
        story.append((now, plasticity.tick(traces, before, now, x is not None, y is not None)))

    return story


# -- the network ---------------------------------------------------------------------------------


def test_every_unit_answers_one_tick_later():
    stack = binary_stack((7, 6, 5, 4))
    network = DelayNetwork(stack.pairs, feedback=0.3)
    x = images()
    h = stack.encode(x)

    first = network.tick(network.rest(ROWS), x)
    second = network.tick(first, x)
    f = [pair.f for pair in stack.pairs]
    g = [pair.g for pair in stack.pairs]

    torch.testing.assert_close(first.x[0], x)
    torch.testing.assert_close(second.up[1], h[1])
    mixed = 0.7 * f[1](first.x[1]) + 0.3 * g[2](first.x[3])
    torch.testing.assert_close(second.x[2], mixed)

    free = DelayNetwork(stack.pairs, feedback=0.0)
    settled = free.show(free.rest(ROWS), 4, x)
    for mine, theirs in zip(settled.x, h, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_is_clamped_stays_and_what_is_not_is_reconstructed():
    network = DelayNetwork(binary_stack().pairs)
    x = images()
    y = images(5)
    now = network.show(network.rest(ROWS), 4, x, y)
    after = network.tick(now)

    assert torch.equal(now.x[0], x) and torch.equal(now.x[2], y) and torch.equal(now.down[2], y)
    assert torch.equal(after.x[0], network.pairs[0].g(now.x[1]))
    assert torch.equal(after.x[2], network.pairs[1].f(now.x[1]))


# -- the rules -----------------------------------------------------------------------------------


def test_averages_are_those_of_the_section():
    """bar(z) <- (1 - 1/tau) bar(z) + z / tau, summed over tau; the past before z_1 is z_1."""
    z = torch.randn(9, 2, 3, dtype=torch.float64)
    bar = Average([1.0, 2.5, 6.0])
    for value in z:
        bar.take(value)

    expected = 0.0
    for tau in (1.0, 2.5, 6.0):
        share = 1.0 - 1.0 / tau
        expected = expected + share**8 * z[0]
        for age, value in enumerate(z[1:].flip(0)):
            expected = expected + share**age / tau * value

    torch.testing.assert_close(bar.sum, expected)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_changes_as_printed(tau):
    """Both delta rules and recirculation as outer products over a stored history."""
    stack = binary_stack((7, 6, 5))
    network = DelayNetwork(stack.pairs, 0.2)
    stimuli = [images(), images(), images(), None, None]
    labels = [images(5), None, images(5), None, None]
    story = course(network, DeltaPlasticity([tau], 0.3, 0.5), stimuli, labels)
    now, changes = story[-1]
    activities = [network.rest(ROWS), *(a for a, _ in story)]

    def bar(values):
        average = values[0]
        for value in values[1:]:
            average = (1.0 - 1.0 / tau) * average + value / tau
        return average

    past = activities[1:-1]
    pre = [before.x for before in activities[:-2]]
    for level in (1, 2):
        up = bar([a.up[level] for a in past])
        error = 0.5 * (up - now.up[level])
        expected = error.T @ activities[-2].x[level - 1] / ROWS
        torch.testing.assert_close(changes[f"recirculate_f_{level}"].weight, expected)

        error = bar([a.up[level - 1] for a in past]) - now.down[level - 1]
        expected = error.T @ activities[-2].x[level] / ROWS
        torch.testing.assert_close(changes[f"reconstruct_g_{level}"].weight, expected)
        torch.testing.assert_close(changes[f"reconstruct_g_{level}"].bias, error.mean(0))

    products = bar([a.up[1].T @ x[0] for a, x in zip(past, pre, strict=True)])
    expected = 0.3 * (now.down[1].T @ bar([x[0] for x in pre]) - products) / ROWS
    torch.testing.assert_close(changes["predict_f_1"].weight, expected)
    assert "predict_f_2" not in changes  # nothing comes back to the top but a label
    assert "predict_f_2" in story[2][1] and "recirculate_f_1" not in story[2][1]


def test_a_delay_of_one_reproduces_the_loops_of_target_propagation():
    """tau = 1 on a settled network gives short_g and target_f; one tick of feedback, short_f.

    The gradients of the cross-entropy are those of TargetPropRule without noise, to 1e-12. The
    long loop of two pairs goes round once.
    """
    stack = binary_stack()
    x = images()
    weights = LoopWeights(recirculation=1.0, target=1.0, denoise=0.0, long=0.0)
    rule = TargetPropRule(stack, ShortAndLongLoops(weights), [GaussianNoise(0.0)] * 3)
    losses = rule.losses((x,), at())

    network = DelayNetwork(stack.pairs, feedback=0.0)
    plasticity = DeltaPlasticity([1.0], prediction=1.0)
    traces = plasticity.start()
    *_, (settled, changes) = course(network, plasticity, [x] * 5, traces=traces)
    found = {
        "short_g_1": changes["reconstruct_g_1"],
        "short_g_2": changes["reconstruct_g_2"],
        "target_f_1": changes["predict_f_1"],
    }

    network.feedback = 1.0  # each layer takes what comes from above, the sensors too
    *_, (_, changes) = course(network, plasticity, [None, None], now=settled, traces=traces)
    found["short_f_1"] = changes["recirculate_f_1"]
    found["short_f_2"] = changes["recirculate_f_2"]

    assert set(found) == set(losses)
    for name, change in found.items():
        layer = map_of(stack.pairs, name)
        of_layer = (layer.weight, layer.bias)
        weight, bias = torch.autograd.grad(losses[name], of_layer, retain_graph=True)
        torch.testing.assert_close(-change.weight, weight, rtol=0.0, atol=1e-12)
        torch.testing.assert_close(-change.bias, bias, rtol=0.0, atol=1e-12)


def test_a_constant_input_leaves_both_rules_at_rest_where_up_and_down_agree():
    """Linear units: g = f^-1 is the closed form; away from it both rules move."""
    stack = Stack(*(Pair(Affine(4, 4), Affine(4, 4)) for _ in range(2))).double()
    for pair in stack.pairs:
        torch.nn.init.orthogonal_(pair.f.weight)
        pair.f.bias.data.normal_()
        pair.g.weight.data = pair.f.weight.data.T.clone()
        pair.g.bias.data = -pair.f.bias.data @ pair.f.weight.data

    def last(stack):
        network = DelayNetwork(stack.pairs, 0.3)
        plasticity = DeltaPlasticity([1.0, 4.0], prediction=1.0)
        return course(network, plasticity, [images(4)] * 120)[-1][1]

    torch.manual_seed(1)
    assert all(change.weight.abs().max() < 1e-12 for change in last(stack).values())

    stack.pairs[1].g.weight.data *= 0.9
    moved = last(stack)
    assert moved["predict_f_1"].weight.abs().max() > 1e-3
    assert moved["reconstruct_g_2"].weight.abs().max() > 1e-3
    assert moved["reconstruct_g_1"].weight.abs().max() > 1e-4  # through x_1, which feedback moves


@pytest.mark.parametrize("kind", [DeltaPlasticity, TemporalPlasticity])
def test_updates_of_several_time_constants_are_added(kind):
    network = DelayNetwork(binary_stack().pairs, 0.2)
    stimuli = [images(), images(), None, images(), None, None]
    taus = (1.0, 2.0, 7.0)
    together = course(network, kind(taus), stimuli)[-1][1]
    single = [course(network, kind([tau]), stimuli)[-1][1] for tau in taus]

    for name, change in together.items():
        torch.testing.assert_close(change.weight, sum(each[name].weight for each in single))
        torch.testing.assert_close(change.bias, sum(each[name].bias for each in single))


def test_rates_of_change_tend_to_back_propagation():
    """Hinton 2007: under weak symmetric feedback the sum of the changes has its direction.

    Layer l's is a^(L - l) times minus the gradient of the label's cross-entropy.
    """
    stack = binary_stack((7, 6, 5, 4))
    f = [pair.f for pair in stack.pairs]
    x = images()
    y = F.one_hot(torch.randint(4, (ROWS,)), 4).double()
    loss = F.binary_cross_entropy(f[2](f[1](f[0](x))), y, reduction="sum") / ROWS
    true = torch.autograd.grad(loss, [layer.weight for layer in f])

    errors = []
    for a in (1e-1, 1e-2, 1e-3):
        network = SymmetricDelayNetwork(stack.pairs, a)
        free = network.show(network.rest(ROWS), 60, x)
        plasticity = TemporalPlasticity([1.0])
        traces = plasticity.start()
        plasticity.tick(traces, free, free)
        story = course(network, plasticity, [x] * 60, [y] * 60, free, traces)

        of_a = []
        for level in (1, 2, 3):
            change = sum(changes[f"predict_f_{level}"].weight for _, changes in story)
            change = -change / a ** (3 - level)
            of_a.append((change - true[level - 1]).norm() / true[level - 1].norm())
            if a == 1e-3:
                assert cosine(change, true[level - 1]) > 1.0 - 1e-5
        errors.append(of_a)

    for coarse, middle, fine in list(zip(*errors, strict=True))[:2]:
        assert 7 < coarse / middle < 14 and 9 < middle / fine < 11


def test_noise_comes_early_and_is_gone_at_the_last_tick():
    network = DelayNetwork(binary_stack().pairs)
    x = images()
    shown = Presentation(ticks=5, noise=0.4)
    deviations = []
    now = network.rest(ROWS)
    for tick in range(5):
        now = network.tick(now, x, noise=shown.noise_at(tick), generator=at().generator)
        deviations.append((now.x[0] - x).abs().max())

    assert deviations[0] > deviations[2] > deviations[4] == 0.0
    assert torch.equal(now.up[0], x)  # what the averages take is the stimulus itself


def test_memory_does_not_grow_with_the_stream():
    """A synapse holds a number for each tau, and that is all that is left of a stream."""
    network = DelayNetwork(binary_stack().pairs)
    plasticity = DeltaPlasticity([1.0, 3.0])
    traces = plasticity.start()
    x = images()

    def held():
        averages = traces.averages.values()
        return sum(average.each.numel() for average in averages), len(averages)

    course(network, plasticity, [x] * 2, traces=traces)
    before = held()
    tracemalloc.start()
    now = network.rest(ROWS)
    sizes = []
    for tick in range(1, 601):
        last = now
        now = network.tick(last, x)
        plasticity.tick(traces, last, now)
        if tick in (100, 600):
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    assert held() == before
    assert sizes[1] < sizes[0] + 20_000
    assert traces.averages["synapse", 1].each.shape == (2, 6, 7)


def learning(network, x, clamped, ticks=400):
    """What units do after all synapses have learned for a while, streams seeing images or none."""
    plasticity = DeltaPlasticity(prediction=0.3)
    traces = plasticity.start()
    now = network.show(network.rest(len(x)), 4, x)
    for tick in range(ticks):
        before = now
        there = clamped and tick % 10 < 7
        now = network.tick(before, x.roll(tick // 10, 0) if there else None)
        for name, change in plasticity.tick(traces, before, now, there).items():
            layer = map_of(network.pairs, name)
            layer.weight.data.add_(change.weight, alpha=0.02)
            layer.bias.data.add_(change.bias, alpha=0.02)

    return now


def readout_error(stack, level, train, valid):
    """Of a linear read-out of h_l, on validation images."""
    with torch.no_grad():
        codes, others = (stack.encode(split.x)[level] for split in (train, valid))
    readout = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))

    return 1.0 - readout.fit(codes, train.y).score(others, valid.y)


def test_without_a_boundary_condition_all_become_constant(digits):
    """With it the codes go on to tell the images apart (the section's own claim)."""
    train = digits.split("train")
    valid = digits.split("valid")
    stack = deep_autoencoder([64, 30, 15], ["sigmoid"] * 2, init="orthogonal", gain=2.0)
    other = deepcopy(stack)

    at_first = readout_error(stack, 1, train, valid)
    x = train.x[:100]
    free = learning(DelayNetwork(other.pairs), x, clamped=False)
    held = learning(DelayNetwork(stack.pairs), x, clamped=True)

    spread = [layer.std(0).max() for layer in stack.encode(x)]
    for gone, there in zip(free.x, spread, strict=True):
        assert gone.std(0).max() < 1e-3 * there
    assert held.x[1].std(0).max() > 0.005  # after a blank
    assert readout_error(stack, 1, train, valid) < at_first + 0.01


def test_features_of_a_stream_tell_more_than_random_ones(digits):
    """Both layers' do, where they are narrow: 64 random units would keep all of 64 pixels."""
    train = digits.split("train")
    valid = digits.split("valid")
    torch.manual_seed(0)
    stack = deep_autoencoder([64, 20, 10], ["sigmoid"] * 2, init="orthogonal", gain=2.0)
    frozen = [readout_error(stack, level, train, valid) for level in (1, 2)]

    rates = Rates(f=1e-2, g=3e-2, hold=0.5)
    shown = Presentation(ticks=8, blank=3)
    rule = OnlineDeltaRule(stack, shown, plasticity=DeltaPlasticity(prediction=0.0), rates=rates)
    optimizer = rule.configure_optimizers()
    for update in range(200):
        rows = torch.randint(len(train.x), (30,))
        rule.begin_update(optimizer, Moment(update / 200, update=update))
        optimizer.zero_grad()
        rule.total_loss((train.x[rows],)).backward()
        optimizer.step()

    learned = [readout_error(stack, level, train, valid) for level in (1, 2)]
    assert learned[0] < frozen[0] - 0.01
    assert learned[1] < frozen[1] - 0.05


# -- the rule ------------------------------------------------------------------------------------


def test_every_tick_is_a_step_of_its_own():
    """One update of the rule leaves the weights where plain steps at each tick leave them."""
    shown = Presentation(ticks=4, blank=2)
    stack = binary_stack()
    x = images()
    rates = Rates(f=[0.3, 0.2], g=0.5, optimizer={"class_path": "torch.optim.SGD"})
    rule = OnlineDeltaRule(stack, shown, every_tick=True, rates=rates)

    own = binary_stack()
    own.load_state_dict(stack.state_dict())
    network = DelayNetwork(own.pairs, rule.feedback)
    traces = rule.plasticity.start()
    now = network.rest(ROWS)
    for tick in range(6):
        before = now
        now = network.tick(before, x if tick < 4 else None)
        for name, change in rule.plasticity.tick(traces, before, now, tick < 4).items():
            layer = map_of(own.pairs, name)
            rate = {"f_1": 0.3, "f_2": 0.2}.get(name[-3:], 0.5) / 6
            layer.weight.data += rate * change.weight
            layer.bias.data += rate * change.bias

    optimizer = rule.configure_optimizers()
    rule.total_loss((x,)).backward()
    optimizer.step()
    for mine, theirs in zip(stack.pairs.parameters(), own.pairs.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_streams_side_by_side_do_not_touch():
    """The update of many is the mean of those of each."""
    rule = OnlineDeltaRule(binary_stack(), Presentation(4, 2), 0.2, DeltaPlasticity([1.0, 3.0]))
    x = images()
    together = rule.present(x, None, at())
    alone = [rule.present(row[None], None, at()) for row in x]

    for name, change in together.items():
        mean = sum(each[name].weight for each in alone) / ROWS
        torch.testing.assert_close(change.weight, mean)
        torch.testing.assert_close(change.error, sum(each[name].error for each in alone) / ROWS)


def linear(*sizes):
    return deep_autoencoder(list(sizes), ["linear"] * (len(sizes) - 1), visible="linear")


def delta(**options):
    return {"plasticity": {"type": "DeltaPlasticity", **options}}


REFUSED = [
    ({"presentation": {"type": "Presentation", "ticks": 0}}, r"presentation\.ticks=0"),
    ({"presentation": {"type": "Presentation", "blank": -1}}, r"presentation\.blank=-1"),
    ({"presentation": {"type": "Presentation", "noise": -0.1}}, r"presentation\.noise=-0\.1"),
    ({"presentation": {"type": "Presentation", "ticks": 1, "blank": 0}}, "nothing changes"),
    (delta(taus=[0.5]), r"plasticity\.taus=0\.5: a number >= 1\.0"),
    (delta(taus=[]), r"plasticity\.taus=\[\]: one time constant"),
    (delta(prediction=-1.0), r"plasticity\.prediction=-1\.0"),
    (delta(recirculation=-1.0), r"plasticity\.recirculation=-1\.0"),
    ({"feedback": 1.5}, r"feedback=1\.5: a number in \[0, 1\]"),
    ({"plasticity": "hebb"}, "plasticity='hebb'"),
    ({"every_tick": True, "rates": Rates()}, r"rates\.optimizer='adam': every_tick"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_a_bad_argument_is_one_error(options, words):
    with pytest.raises(ValueError, match=words):
        OnlineDeltaRule(linear(8, 6, 4), **options)


def test_other_layers_and_bad_batches_are_refused():
    with pytest.raises(ValueError, match=r"g_1 is Transpose; .* use Pair\(Affine"):
        OnlineDeltaRule(Stack(TiedPair(8, 4)))
    with pytest.raises(ValueError, match="f_1 is MLP"):
        OnlineDeltaRule(deep_autoencoder([8, 4], hidden_f=[5]))
    with pytest.raises(ValueError, match="pair 1 has discrete units"):
        OnlineDeltaRule(deep_autoencoder([8, 4], units="sign"))
    with pytest.raises(ValueError, match="pair 1 has a law that is to be learned"):
        OnlineDeltaRule(deep_autoencoder([8, 4], noise=0.3))

    rule = OnlineDeltaRule(linear(8, 4), labels=True)
    x = torch.rand(3, 8)
    for batch, words in (
        ((x[:, :5], None), r"x has shape \(3, 5\)"),
        ((x,), "the batch has no labels"),
        ((x, torch.tensor([0, 1, 4])), "y holds labels from 0 to 4; the model has 4 classes"),
    ):
        with pytest.raises(ValueError, match=words):
            rule.losses(batch)

    network = rule.network()
    with pytest.raises(ValueError, match="ticks=0"):
        network.show(network.rest(3), 0)
    with pytest.raises(ValueError, match=r"y has shape \(3, 8\)"):
        network.show(network.rest(3), 1, x, x)
