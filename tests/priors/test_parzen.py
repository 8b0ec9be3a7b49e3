import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from gendae.models.architectures import deep_autoencoder
from gendae.priors.bandwidth import HeldOut
from gendae.priors.centres import choose
from gendae.priors.copying import DataCopying
from gendae.priors.manifold import ManifoldParzenPrior
from gendae.priors.parzen import ParzenPrior, parzen_log_prob
from gendae.registry import build
from gendae.storage import verify


def curve(n=300, noise=0.02):
    """Points near a circle in three dimensions."""
    angle = 2 * math.pi * torch.rand(n, dtype=torch.float64)
    flat = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
    return flat + noise * torch.randn(n, 3, dtype=torch.float64)


def gaussian(n=200, d=4):
    return torch.randn(n, d, dtype=torch.float64)


def windows(kind, *args, components=2, neighbours=10, **options):
    """A prior with round windows, or with local ones."""
    if kind == "round":
        return ParzenPrior(*args, **options)

    return ManifoldParzenPrior(*args, components=components, neighbours=neighbours, **options)


def covariances(prior):
    eye = torch.eye(prior.codes.shape[1], dtype=torch.float64)
    v = prior.directions
    return prior.bandwidth_**2 * eye + v.mT @ torch.diag_embed(prior.variances) @ v


@pytest.mark.parametrize("kind", ["round", "manifold"])
def test_density_is_the_mixture_of_the_windows(kind):
    prior = windows(kind, 0.05, neighbours=6).fit(curve(60))
    x = curve(25, 0.1)
    components = Independent(Normal(prior.codes, prior.bandwidth_), 1)
    if kind == "manifold":
        components = MultivariateNormal(prior.codes, covariances(prior))

    mixture = MixtureSameFamily(Categorical(torch.ones(60).double()), components)
    assert torch.allclose(prior.log_prob(x), mixture.log_prob(x))
    if kind == "round":
        assert torch.allclose(prior.log_prob(x), parzen_log_prob(x, prior.codes, 0.05), rtol=1e-5)


@pytest.mark.parametrize(
    "log_prob",
    [
        lambda x: windows("round", 0.3).fit(gaussian(20, 1)).log_prob(x),
        lambda x: windows("manifold", 0.3, neighbours=3).fit(gaussian(20, 1)).log_prob(x),
        lambda x: parzen_log_prob(x, torch.rand(5, 1).double(), 0.4),
    ],
    ids=["round", "manifold", "function"],
)
def test_density_integrates_to_one(log_prob):
    grid = torch.linspace(-30, 30, 9001, dtype=torch.float64)[:, None]
    total = torch.trapezoid(log_prob(grid).exp(), grid[:, 0])
    assert total.item() == pytest.approx(1.0, 1e-6)


def test_local_directions_are_the_principal_ones_of_the_neighbours():
    prior = ManifoldParzenPrior(bandwidth=0.1, neighbours=7, components=3).fit(gaussian(40, 3))
    index = torch.cdist(prior.codes, prior.codes).argsort(1)[:, 1:8]
    difference = prior.codes[index] - prior.codes[:, None]
    expected = difference.mT @ difference / 7 + 0.01 * torch.eye(3, dtype=torch.float64)

    assert torch.allclose(covariances(prior), expected)  # all three directions kept: exact


def test_fewer_directions_than_components():
    prior = ManifoldParzenPrior(bandwidth=0.1, neighbours=2, components=5).fit(gaussian(30, 4))
    assert prior.directions.shape == (30, 2, 4)

    h = torch.zeros(30, 3, dtype=torch.float64)
    h[:, 0] = torch.arange(30)  # codes on a line: one direction, the others nothing
    prior = ManifoldParzenPrior(bandwidth=0.1, neighbours=4, components=3).fit(h)

    assert torch.allclose(prior.variances[:, 1:], torch.zeros(30, 2).double())
    assert torch.isfinite(prior.log_prob(h + 0.1)).all()


def test_manifold_windows_fit_a_curve_better_and_sample_nearer_to_it():
    codes = curve(150, 0.005)
    test = curve(400, 0.005)
    models = []
    for kind in ("round", "manifold"):
        models.append(windows(kind, neighbours=8, components=1).fit(codes))

    scores = [prior.log_prob(test).mean() for prior in models]
    assert scores[1] > scores[0] + 1.0

    off = []
    for prior in models:
        samples = prior.sample(2000, torch.Generator().manual_seed(0))
        off.append((samples[:, :2].norm(dim=1) - 1).abs().mean())
    assert off[1] < 0.7 * off[0]


@pytest.mark.parametrize("kind", ["round", "manifold"])
def test_score_is_the_gradient_also_at_stored_codes(kind):
    prior = windows(kind, 0.5).fit(gaussian(50))
    x = torch.cat([gaussian(5), prior.codes[:5]]).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(x).sum(), x)

    assert torch.allclose(prior.score(x), gradient)
    assert torch.allclose(prior.reconstruct(x) - x, prior.bandwidth_**2 * gradient)


def test_reconstruction_is_equation_21():
    prior = ParzenPrior(bandwidth=0.5).fit(gaussian(50))
    x = gaussian(6)
    d2 = (x[:, None] - prior.codes).square().sum(-1)
    w = torch.exp(-0.5 * d2 / 0.25)
    assert torch.allclose(prior.reconstruct(x), (w / w.sum(1, keepdim=True)) @ prior.codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stored_code_does_not_see_itself(dtype):
    codes = gaussian(40).to(dtype) + 3
    prior = ParzenPrior(bandwidth=0.6).fit(codes)
    i = 7
    others = torch.cat([prior.codes[:i], prior.codes[i + 1 :]])
    x = prior.codes[i : i + 1] * (1 + torch.finfo(dtype).eps)  # equal up to rounding
    expected = parzen_log_prob(x, others, 0.6).to(dtype)

    assert torch.allclose(prior.log_prob(x), expected, atol=1e-4)

    near = x + 1e-3
    assert prior.log_prob(near) > expected + 0.1  # another point does

    whole = ParzenPrior(bandwidth=0.6, leave_one_out=False).fit(codes)
    assert torch.allclose(whole.log_prob(x), parzen_log_prob(x, codes, 0.6).to(dtype), atol=1e-4)
    assert torch.allclose(whole.log_prob(near), prior.log_prob(near), atol=1e-5)


def test_of_two_equal_codes_one_is_left_out():
    codes = torch.tensor([[0.0], [0.0], [9.0]])
    prior = ParzenPrior(bandwidth=1.0).fit(codes)
    assert prior.log_prob(codes[:1]).item() == pytest.approx(math.log(0.5) - 0.9189, abs=1e-3)


def test_cross_entropy_leaves_the_mean_s_own_code_out():
    prior = ParzenPrior(bandwidth=0.5).fit(gaussian(30))
    mean = prior.codes[:3]
    draw = prior.codes[3:6] + 0.2  # nearer to others
    expected = []
    for i in range(3):
        others = torch.cat([prior.codes[:i], prior.codes[i + 1 :]])
        expected.append(-parzen_log_prob(draw[i : i + 1], others, 0.5)[0])
    expected = torch.stack(expected)

    assert torch.allclose(prior.cross_entropy(draw, mean), expected, atol=1e-6)
    assert torch.allclose(prior.cross_entropy(draw, mean + 0.1), -prior.log_prob(draw))
    assert not torch.allclose(prior.cross_entropy(draw, mean), -prior.log_prob(draw))


@pytest.mark.parametrize("kind", ["round", "manifold"])
def test_the_chosen_bandwidth_is_the_best_on_held_out_codes(kind):
    codes = gaussian(500, 2)
    prior = windows(kind, components=1).fit(codes)
    assert len(prior.codes) == 450

    stored = {tuple(row) for row in prior.codes.tolist()}
    held = torch.stack([c for c in codes if tuple(c.tolist()) not in stored])
    assert len(held) == 50

    def likelihood(sigma):
        other = windows(kind, sigma, components=1)
        other.load_state_dict(prior.state_dict())
        other.bandwidth_ = torch.tensor(sigma).double()

        return other.log_prob(held).mean().item()

    best = likelihood(prior.bandwidth_.item())
    sigma = prior.bandwidth_.item()
    assert 0.05 < sigma < 1.0
    assert all(likelihood(sigma * f) < best for f in (0.25, 0.6, 1.6, 4.0))


def test_a_bonus_enlarges_the_bandwidth():
    codes = gaussian(300, 2)
    priors = [ParzenPrior(held_out=HeldOut(bonus=bonus)) for bonus in (0.0, 0.5, 1.0)]
    widths = [prior.fit(codes).bandwidth_.item() for prior in priors]

    assert widths[0] < widths[1] < widths[2]


def test_samples_are_templates_plus_noise_of_the_bandwidth():
    prior = ParzenPrior(bandwidth=0.01).fit(10 * gaussian(50, 3))
    s = prior.sample(5000, torch.Generator().manual_seed(0))
    nearest = torch.cdist(s, prior.codes).argmin(1)

    assert (torch.bincount(nearest, minlength=50) == 100).all()  # stratified: each equally often
    assert (s - prior.codes[nearest]).std().item() == pytest.approx(0.01, rel=0.03)

    few = torch.cdist(prior.sample(20), prior.codes).argmin(1)
    assert len(set(few.tolist())) == 20  # of different templates

    prior.stratified = False
    prior.noise_scale = 0.0
    s = prior.sample(5000, torch.Generator().manual_seed(0))
    distance, nearest = torch.cdist(s, prior.codes).min(1)
    count = torch.bincount(nearest, minlength=50)

    assert count.min() < 100 < count.max()
    assert distance.max() < 1e-4

    whole = prior.marginal(torch.ones(3, dtype=torch.bool))  # which keeps all settings
    assert torch.equal(whole.sample(5000, torch.Generator().manual_seed(0)), s)


def clusters(n, seed):
    """Codes of four tight groups in five dimensions."""
    generator = torch.Generator().manual_seed(seed)
    means = 3 * torch.eye(4, 5, dtype=torch.float64)
    groups = torch.randint(4, (n,), generator=generator)
    return means[groups] + 0.5 * torch.randn(n, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("round", {"choice": "kmeans", "capacity": 600}),
        ("round", {"bandwidth": 0.3, "capacity": 2000}),
        ("manifold", {"capacity": 1000}),
    ],
    ids=["around means", "of a given width", "manifold"],
)
def test_noise_is_chosen_where_samples_are_as_near_to_training_codes_as_fresh_ones(kind, options):
    codes = clusters(8000, 0)
    copying = DataCopying(codes, clusters(3000, 1))

    def statistic(scale):
        prior = windows(kind, **options, noise_scale=scale).fit(codes)
        return copying(prior.sample(3000, torch.Generator().manual_seed(2)))

    assert abs(copying(clusters(3000, 3))) < 1.5
    assert abs(statistic(None)) < 1.5
    assert statistic(0.25) < -4.0
    assert statistic(2.0) > 4.0


def test_the_noise_in_use_is_kept_and_shown():
    codes = clusters(1500, 0)
    prior = ParzenPrior(choice="kmeans", capacity=200).fit(codes)
    scale = prior.noise_scale_.item()
    assert 0.1 < scale < 1.0
    assert f"noise_scale={scale:.4g}" in repr(prior)
    assert ParzenPrior(choice="kmeans", capacity=200).fit(codes).noise_scale_.item() == scale

    again = ParzenPrior(choice="kmeans", capacity=200).double()
    again.load_state_dict(prior.state_dict())
    assert (again.noise_scale, again.noise_scale_.item()) == (None, scale)

    whole = again.marginal(torch.ones(5, dtype=torch.bool))
    assert whole.noise_scale_.item() == scale
    again.noise_scale = 0.5
    assert again.noise_scale_.item() == 0.5

    for few in (ParzenPrior().fit(codes[:900]), ParzenPrior(0.3).fit(codes[:900])):
        assert few.noise_scale_.item() == 1.0  # of 90 held-out codes nothing can be told
    assert len(ParzenPrior(0.3).fit(codes[:900]).codes) == 900
    assert len(ParzenPrior(0.3).fit(codes).codes) == 1350


@pytest.mark.parametrize(("given", "expected"), [(0.95, 0.95), (None, 1.0)])
def test_files_of_earlier_versions_have_the_noise_in_their_description(given, expected):
    stacks = [deep_autoencoder([6, 3], prior=ParzenPrior(0.4, noise_scale=given)) for _ in "ab"]
    stacks[0].prior.fit(gaussian(30, 3).float())
    state = stacks[0].state_dict()
    del state["prior.noise_scale_"]
    verify.check_weights("m.ckpt", stacks[1], state)
    stacks[1].load_state_dict(state)

    assert stacks[1].prior.noise_scale_.item() == pytest.approx(expected)
    draws = [stack.prior.sample(50, torch.Generator().manual_seed(0)) for stack in stacks]
    assert torch.equal(*draws)


def test_manifold_samples_have_the_mixture_s_covariance():
    prior = ManifoldParzenPrior(bandwidth=0.1, neighbours=6, components=2).fit(curve(40))
    s = prior.sample(200_000, torch.Generator().manual_seed(0))
    expected = covariances(prior).mean(0) + torch.cov(prior.codes.T, correction=0)

    assert torch.allclose(torch.cov(s.T), expected, atol=5e-3)


def test_capacity_keeps_a_subset_that_the_seed_chooses_or_the_means_of_a_clustering():
    codes = gaussian(300, 2)

    def kept(seed=0, **options):
        return ParzenPrior(0.3, capacity=20, seed=seed, **options).fit(codes).codes

    subset = kept()
    assert subset.shape == (20, 2)
    assert (torch.cdist(subset, codes).min(1).values < 1e-6).all()
    assert torch.equal(kept(), subset)
    assert not torch.equal(kept(seed=1), subset)

    means = kept(choice="kmeans")
    few = codes[:10]
    assert means.shape == (20, 2)
    assert torch.equal(choose(few, 10, "kmeans", torch.Generator()), few)  # all of them fit

    def distortion(centres):
        return torch.cdist(codes, centres).min(1).values.square().mean()

    assert distortion(means) < 0.8 * distortion(subset)


@pytest.mark.parametrize("kind", ["round", "manifold"])
def test_blocks_make_no_difference(kind, monkeypatch):
    prior = windows(kind, 0.4).fit(gaussian(50))
    x = gaussian(11)
    whole = prior.log_prob(x), prior.reconstruct(x), prior.cross_entropy(x, x)

    monkeypatch.setattr("gendae.priors.parzen.BLOCK_ENTRIES", 100)
    blocks = prior.log_prob(x), prior.reconstruct(x), prior.cross_entropy(x, x)

    assert all(torch.allclose(a, b) for a, b in zip(whole, blocks, strict=True))


def test_float32_codes_far_from_the_origin_keep_their_density_also_under_autocast():
    codes = (gaussian(100, 20) + 100).float()
    prior = ParzenPrior(bandwidth=0.5).fit(codes)
    x = (gaussian(10, 20) + 100).float()
    log_p = prior.log_prob(x)

    assert torch.allclose(log_p.double(), parzen_log_prob(x, codes, 0.5), rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.log_prob(x), log_p)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ParzenPrior(bandwidth=0.0), "bandwidth=0.0"),
        (lambda: ParzenPrior(bandwidth=-1.0), "bandwidth=-1.0"),
        (lambda: ParzenPrior(capacity=1), "capacity=1"),
        (lambda: ParzenPrior(choice="first"), "reservoir, kmeans"),
        (lambda: build({"type": "ParzenPrior", "local": "global"}), "local='global'"),
        (lambda: ParzenPrior(held_out=0.1), "held_out=0.1: a HeldOut"),
        (lambda: HeldOut(fraction=1.0), "fraction=1.0"),
        (lambda: HeldOut(bonus=-1.0), "bonus=-1.0"),
        (lambda: ParzenPrior(noise_scale=-1.0), "noise_scale"),
        (lambda: ManifoldParzenPrior(0.1).fit(gaussian(10)), "neighbours=10 but only 10 codes"),
        (lambda: ParzenPrior().fit(gaussian(2)), "at least three"),
        (lambda: ParzenPrior().fit(torch.ones(20, 3)), "all equal, so that bandwidth=None"),
        (lambda: ParzenPrior(0.3).fit(torch.ones(1000, 3)), "all equal, so that noise_scale=None"),
        (lambda: ParzenPrior().fit(torch.full((20, 3), math.nan)), "60 NaN"),
        (lambda: ParzenPrior().log_prob(torch.zeros(1, 3)), "not fitted"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
