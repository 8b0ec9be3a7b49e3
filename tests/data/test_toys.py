import math

import pytest
import torch

from gendae.data.toys import DISTRIBUTIONS, Toys2D, grid
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_splits_are_seeded_disjoint_and_of_width_two(distribution):
    a, b, c = (Toys2D(distribution, n=500, seed=seed) for seed in (0, 0, 1))
    assert [len(a.split(name).x) for name in ("train", "valid", "test")] == [400, 50, 50]
    assert a.shape == (1, 2)

    x = a.split("train").x
    assert x.shape == (400, 2) and x.dtype == torch.float32
    assert torch.equal(x, b.split("train").x) and not torch.equal(x, c.split("train").x)

    whole = torch.cat([a.split(name).x for name in ("train", "valid", "test")])
    assert len(whole.unique(dim=0)) == 500
    assert 1.5 < whole.abs().max() < 2.6


def test_without_noise_the_points_lie_on_their_curves():
    rings = Toys2D("rings", n=400, noise=0.0).split("train")
    assert torch.allclose(rings.x.norm(dim=1), 2.0 - rings.y.float(), atol=1e-5)

    moons = Toys2D("moons", n=400, noise=0.0).split("train")
    centres = torch.tensor([[-0.5, -0.25], [0.5, 0.25]])[moons.y] * 4 / 3
    assert torch.allclose((moons.x - centres).norm(dim=1), torch.tensor(4 / 3), atol=1e-5)

    spiral = Toys2D("spiral", n=400, noise=0.0).split("train").x
    angle = spiral.norm(dim=1) * 4.5 * math.pi / 2  # the radius grows with the angle
    assert torch.allclose(spiral[:, 0] / spiral.norm(dim=1), angle.cos(), atol=1e-4)

    modes = Toys2D("gaussians", n=2000, noise=0.0).split("train")
    assert torch.equal(modes.x, grid()[modes.y])
    assert modes.y.bincount(minlength=25).min() > 30


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_noise_has_the_level_asked_for(distribution):
    clean, noisy = (
        Toys2D(distribution, n=4000, noise=noise).split("train").x for noise in (0.0, 0.3)
    )
    assert (noisy - clean).std().item() == pytest.approx(0.3, rel=0.03)
    assert (noisy - clean).mean(0).abs().max() < 0.02


def test_the_density_integrates_to_one_and_its_logarithm_s_gradient_is_the_score():
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    density = Toys2D("gaussians", noise=0.2).log_prob(points).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1.0, abs=1e-6)

    data = Toys2D("gaussians", noise=0.3)
    x = (4 * torch.rand(200, 2, dtype=torch.float64) - 2).requires_grad_()
    (gradient,) = torch.autograd.grad(data.log_prob(x).sum(), x)
    assert torch.allclose(data.score(x), gradient, atol=1e-10)


def test_the_points_are_drawn_from_the_density():
    data = Toys2D("gaussians", n=20_000)
    x = data.split("train").x.double()
    # the modes do not overlap
    entropy = math.log(25) + math.log(2 * math.pi * math.e * 0.1**2)

    assert -data.log_prob(x).mean().item() == pytest.approx(entropy, abs=0.03)
    assert data.score(x).mean(0).abs().max() < 0.3  # its mean is 0, its standard deviation 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Toys2D("blobs"), "moons, rings, spiral, gaussians"),
        (lambda: Toys2D(n=3), "n=3"),
        (lambda: Toys2D(noise=-1.0), "noise=-1.0"),
        (lambda: Toys2D("rings").log_prob(torch.zeros(1, 2)), "distribution='rings'"),
        (lambda: Toys2D("gaussians", noise=0.0).score(torch.zeros(1, 2)), "noise > 0"),
        (lambda: Toys2D("gaussians").score(torch.zeros(1, 3)), r"\(batch, 2\)"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_reconstruction_minus_input_over_sigma_squared_estimates_the_score():
    centres = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]])
    spread = 0.4
    sigma = 0.2
    pair = Pair(MLP(2, [32], 32, "tanh", "tanh", gain=2.0), MLP(32, [32], 2, "linear", "tanh"))
    optimizer = torch.optim.Adam(pair.parameters())

    def draw(n):
        clean = centres[torch.randint(3, (n,))] + spread * torch.randn(n, 2)
        return clean, clean + sigma * torch.randn(n, 2)

    def cosine():
        _, noisy = draw(2000)
        distance = (noisy[:, None] - centres).square().sum(-1)
        variance = spread**2 + sigma**2  # of the corrupted points, whose score denoising estimates
        true = (torch.softmax(-0.5 * distance / variance, 1) @ centres - noisy) / variance

        with torch.no_grad():
            estimate = (pair.g(pair.f(noisy)) - noisy) / sigma**2

        ratio = (estimate * true).sum() / true.square().sum()
        return torch.cosine_similarity(estimate, true).mean().item(), ratio.item()

    before = cosine()
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 1500)
        clean, noisy = draw(500)

        optimizer.zero_grad()
        pair.observation.energy(clean, pair.g(pair.f(noisy))).mean().backward()
        optimizer.step()

    after = cosine()
    assert before[0] < 0.8 and after[0] > 0.95
    assert after[1] == pytest.approx(1.0, abs=0.1)  # the factor 1 / sigma^2 too
