import math

import pytest
import torch

from gendae.models.architectures import deep_autoencoder
from gendae.priors.autoencoder import AutoencoderPrior, Learning, Walk
from gendae.priors.criteria import NearestNeighbour, Reconstruction
from gendae.registry import build
from gendae.sampling.samplers import seeded

CENTRES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])


def ring(n=1500):
    angle = 2 * math.pi * torch.rand(n)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2)


def clusters(n=1500):
    return CENTRES[torch.randint(4, (n,))] + 0.3 * torch.randn(n, 2)


ONCE = Learning(epochs=1)


MEANS = Walk(residual=0.0)  # transitions without a draw, whose states lie where the mean does


def small(epochs=15, seed=0, walk=MEANS, **kwargs):
    learning = Learning(epochs, lr=2e-3, seed=seed)
    return AutoencoderPrior([64, 64], 32, learning=learning, walk=walk, **kwargs)


def like(prior, **options):
    """A prior with the same weights, and other options."""
    names = ("hidden", "code", "sigma", "hidden_noise", "criterion", "learning", "walk")
    own = {name: getattr(prior, name) for name in names}

    other = AutoencoderPrior(**{**own, **options})  # never prepared: the state brings its width
    other.load_state_dict(prior.state_dict())

    return other


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return small().fit(clusters())


def test_reconstruction_pulls_towards_the_data():
    torch.manual_seed(0)
    prior = small(sigma=0.3).fit(ring())
    x = ring(200)
    away = x * 1.3  # radius 2.6

    assert (prior.reconstruct(away).norm(dim=1) - 2).abs().mean() < 0.3
    assert (prior.reconstruct(x) - x).norm(dim=1).mean() < 0.35


def test_reconstruction_minus_input_estimates_the_score_of_a_gaussian():
    codes = 2 * torch.randn(4000, 2) + 1
    prior = small(40, sigma=0.3, activation="softplus").fit(codes)
    # the codes' own units: noise 0.3 * 2; the optimum is linear, mean + 1 / (1 + 0.09) (h - mean)
    x = 2 * torch.randn(500, 2) + 1
    expected = 1 + (x - 1) / 1.09

    assert (prior.reconstruct(x) - expected).norm(dim=1).mean() < 0.25


def test_one_chain_visits_all_clusters_in_proportion(trained):
    start = clusters(1).expand(300, 2)  # all chains from the same code
    states = trained.chain(start, 150, seeded(0))[60::10].flatten(0, 1)
    distance = torch.cdist(states, CENTRES)
    share = torch.bincount(distance.argmin(1), minlength=4) / len(states)

    assert (share > 0.15).all()
    assert (share < 0.35).all()
    assert (distance.min(1).values < 1.0).float().mean() > 0.8


def test_samples_of_a_ring_are_on_the_ring_all_around():
    prior = small(30).fit(ring())
    s = prior.sample(2000, seeded(0))
    radius = s.norm(dim=1)
    angle = torch.atan2(s[:, 1], s[:, 0])

    assert (radius > 1.2).float().mean() > 0.95
    assert (radius < 2.5).float().mean() > 0.99

    share = torch.histc(angle, 8, -math.pi, math.pi) / len(s) * 8
    assert (share > 0.6).all()
    assert (share < 1.5).all()


def test_the_criterion_of_the_nearest_neighbour():
    """By hand: h' is the candidate whose code is nearest to f(h) - xi (2.2.8, steps 1 to 4)."""
    criterion = NearestNeighbour(match=0.2, neighbours=5)
    options = {"sigma": 0.0, "hidden_noise": 0.7, "criterion": criterion}
    prior = AutoencoderPrior([6], 3, learning=ONCE, **options).fit(torch.randn(40, 2)).double()
    z = torch.randn(4, 2).double()
    candidates = torch.randn(4, 5, 2).double()
    xi = 0.7 * torch.randn(4, 3, generator=seeded(3), dtype=torch.float64)

    total = 0.0
    for row in range(4):
        own = prior.f(z[row])
        codes = prior.f(candidates[row])
        nearest = min(range(5), key=lambda j: (codes[j] - (own - xi[row])).norm().item())
        end = prior.g(codes[nearest] + xi[row])
        total += ((end - z[row]) ** 2).sum() + 0.2 * 2 * ((own - codes[nearest]) ** 2).sum()

    loss = criterion.loss(prior.transition, z, candidates, seeded(3))
    assert torch.allclose(loss, total / 4)


def test_match_pulls_the_codes_of_neighbours_together():
    def spread(match):
        prior = small(10, sigma=0.0, hidden_noise=0.5, criterion=NearestNeighbour(match=match))
        code = prior.fit(ring(500)).f
        x = prior.recorded[:200]
        z = (x - prior.center) / prior.scale
        near = torch.cdist(z, z).argsort(1)[:, 1]

        return ((code(z) - code(z[near])).norm(dim=1) / code(z).std()).mean()

    torch.manual_seed(0)
    loose = spread(0.0)
    torch.manual_seed(0)

    assert spread(3.0) < loose


@pytest.mark.parametrize("space", ["code", "input"])
def test_candidates_are_the_nearest_codes(space):
    criterion = NearestNeighbour(space=space, neighbours=4)
    prior = AutoencoderPrior([6], 3, criterion=criterion, hidden_noise=0.3, learning=ONCE)
    prior.fit(torch.randn(30, 2))
    z = torch.randn(25, 2)

    points = {"code": prior.f(z), "input": z}[space]
    expected = torch.cdist(points, points).topk(4, largest=False).indices
    candidates = criterion.nearest(prior.transition, z)

    assert torch.equal(candidates.sort(1).values, expected.sort(1).values)
    assert torch.equal(candidates[:, 0], torch.arange(25))  # h itself is among them


def test_a_nearest_neighbour_chain_mixes_around_the_ring():
    torch.manual_seed(0)
    criterion = NearestNeighbour(match=0.01, refresh=100)
    prior = small(sigma=0.0, hidden_noise=1.0, criterion=criterion).fit(ring())

    states = prior.chain(ring(1).expand(300, 2), 150, seeded(0))[50::10].flatten(0, 1)
    angle = torch.atan2(states[:, 1], states[:, 0])
    share = torch.histc(angle, 6, -math.pi, math.pi) / len(states) * 6

    assert (share > 0.5).all()
    assert ((states.norm(dim=1) - 2).abs() < 0.6).float().mean() > 0.95


def test_walkback_adds_transitions_with_the_same_target():
    criterion = Reconstruction(walkback=2)
    prior = AutoencoderPrior([6], 3, criterion=criterion, learning=ONCE).fit(torch.randn(30, 2))
    z = torch.randn(5, 2)
    g = seeded(1)

    end = z
    errors = []
    for _ in range(3):
        end = prior.transition(end, g)
        errors.append((end - z).square().sum(-1).mean())

    loss = criterion.loss(prior.transition, z, None, seeded(1))
    assert torch.allclose(loss, torch.stack(errors).mean())


@pytest.mark.parametrize("kind", ["both", "input", "code"])
def test_a_chain_starts_at_h_and_moves_with_the_corruption_asked_for(kind):
    h = torch.randn(50, 2)
    noise = {"sigma": 0.4, "hidden_noise": 0.5, "walk": Walk(noise=kind, residual=0.0)}
    prior = AutoencoderPrior([6], 3, learning=ONCE, **noise).fit(h)
    states = prior.chain(h, 2, seeded(2))

    g = seeded(2)
    z = (h - prior.center) / prior.scale
    if kind != "code":
        z = z + 0.4 * torch.randn(z.shape, generator=g)

    c = prior.f(z)
    if kind != "input":
        c = c + 0.5 * torch.randn(c.shape, generator=g)

    expected = prior.center + prior.scale * prior.g(c)
    assert states.shape == (3, 50, 2)
    assert torch.equal(states[0], h)
    assert torch.allclose(states[1], expected)
    assert not torch.allclose(states[2], expected)


def test_residual_noise_has_the_size_of_the_reconstruction_error(trained):
    h = clusters(4000)
    wide = like(trained, walk=Walk(residual=1.0))

    added = wide.chain(h, 1, seeded(0))[1].var(0) - trained.chain(h, 1, seeded(0))[1].var(0)
    expected = (trained.error * trained.scale).square()

    assert torch.allclose(added, expected, rtol=0.25)


@pytest.mark.parametrize(("sigma", "residual"), [(0.3, 1.0), (0.6, 1.0), (0.3, 0.0), (0.6, 0.0)])
def test_a_chain_has_the_law_of_gaussian_codes_and_without_draws_one_that_is_too_narrow(
    sigma, residual
):
    """h <- a (h + sigma xi) + r eta, a = 1 / (1 + sigma^2): V = 1, or 1 / (2 + sigma^2)."""
    torch.manual_seed(0)
    codes = 3.0 * torch.randn(8000, 2) + 1.0
    learning = Learning(epochs=20, lr=3e-3)
    walk = Walk(residual=residual)
    prior = AutoencoderPrior([], 2, "linear", sigma, learning=learning, walk=walk).fit(codes)

    h = prior.chain(codes[:4000], 60, seeded(0))[-1]
    variance = 1.0 if residual else 1.0 / (2.0 + sigma**2)

    assert Walk().residual == 1.0
    assert torch.allclose(h.var(0), 9.0 * torch.full((2,), variance), rtol=0.1)
    assert torch.allclose(h.mean(0), torch.ones(2), atol=0.3)


def test_a_step_s_temperature_scales_all_of_its_noise(trained):
    h = clusters(20)
    other = like(trained, sigma=0.25, walk=Walk(residual=0.5))
    full = like(trained, walk=Walk(residual=1.0))

    assert torch.allclose(full.step(h, 0.5, seeded(0)), other.step(h, 1.0, seeded(0)))
    assert torch.equal(full.step(h, 0.0, seeded(0)), trained.reconstruct(h))


def test_few_chains_give_many_samples(trained):
    for chains, n in ((3, 10), (50, 10), (1, 2)):
        prior = like(trained, walk=Walk(steps=2, burn_in=3, chains=chains))
        assert prior.sample(n, seeded(0)).shape == (n, 2)

    g = seeded(0)
    index = torch.randint(len(prior.recorded), (1,), generator=g)
    states = prior.chain(prior.recorded[index], 7, g)  # burn-in 3, then a sample every 2 steps

    assert torch.equal(prior.sample(2, seeded(0)), torch.cat([states[5], states[7]]))


def test_a_second_fit_goes_on_from_the_first():
    codes = clusters(600)
    prior = small(1).fit(codes)
    first = [p.clone() for p in prior.parameters()]
    error = prior.error.norm()
    prior.fit(codes)

    assert any(not torch.equal(a, b) for a, b in zip(first, prior.parameters(), strict=True))

    for _ in range(3):
        prior.fit(codes)

    assert prior.error.norm() < error


def test_training_is_reproducible_and_depends_on_the_seed():
    codes = clusters(200)
    a, b, c = (small(1, seed=s).fit(codes).g.layers[0].weight for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_no_parameter_wants_a_gradient_outside_fit_but_the_input_gets_one(trained):
    prepared = deep_autoencoder([8, 6, 4], prior=AutoencoderPrior([8], 4)).prior
    assert len(list(prepared.parameters())) == 8
    for prior in (trained, prepared):
        assert not any(p.requires_grad for p in prior.parameters())

    h = clusters(3).requires_grad_()
    trained.reconstruct(h).sum().backward()

    assert h.grad.abs().sum() > 0


def test_recorded_codes_are_capped():
    codes = torch.randn(100, 2)
    prior = AutoencoderPrior([4], 2, learning=ONCE, walk=Walk(capacity=10)).fit(codes)

    assert prior.recorded.shape == (10, 2)
    assert all((codes == row).all(1).any() for row in prior.recorded)


def tiny():
    return AutoencoderPrior([4], 2, learning=ONCE).fit(torch.randn(9, 2))


def diverging():
    return AutoencoderPrior([4], 2, "linear", learning=Learning(3, lr=1e30))


NO_DENSITY = r"AutoencoderPrior has no density.*reconstruct.*Gaussian"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AutoencoderPrior(sigma=0.0), "without noise"),
        (lambda: AutoencoderPrior(walk=Walk(noise="code")), "without noise"),
        (lambda: Walk(noise="none"), "both, input, code"),
        (lambda: AutoencoderPrior(criterion=NearestNeighbour()), "hidden_noise=0.0"),
        (lambda: AutoencoderPrior(criterion="mine"), "criterion='mine': a Criterion"),
        (lambda: build({"type": "AutoencoderPrior", "criterion": "mine"}), "AutoencoderPrior"),
        (lambda: NearestNeighbour(space="pixel"), "code, input"),
        (lambda: AutoencoderPrior(activation="step"), "activation='step'"),
        (lambda: AutoencoderPrior(hidden=[0]), "hidden=0"),
        (lambda: Learning(lr=0.0), "lr=0.0"),
        (
            lambda: diverging().fit(torch.randn(50, 2)),
            "lr=1e.30: training of AutoencoderPrior diverged",
        ),
        (lambda: tiny().prepare(3), "width 2, not 3"),
        (lambda: tiny().fit(torch.randn(9, 3)), "width 3, the prior 2"),
        (lambda: tiny().chain(torch.zeros(1, 3), 1), r"\(batch, 2\)"),
        (lambda: tiny().log_prob(CENTRES), NO_DENSITY),
        (lambda: tiny().score(CENTRES), NO_DENSITY),
        (lambda: tiny().cross_entropy(CENTRES, CENTRES), NO_DENSITY),
    ],
)
def test_bad_arguments_and_a_missing_density_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
