import pytest
import torch

from gendae.completion.inpainting import MASKS, Inpainter, inpaint, named_mask
from gendae.corruption import FlipNoise, GaussianNoise
from gendae.inference import GradientInference, TargetPropInference
from gendae.models.architectures import deep_autoencoder
from gendae.sampling.level import LevelSampler
from gendae.sampling.samplers import (
    SAMPLERS,
    AncestralSampler,
    GenerateSampler,
    JointChainSampler,
    LatentChainSampler,
    generate,
    sampler_named,
    seeded,
)
from tests.conftest import exact_encoder, linear_stack, posterior, small_stack

ALL = torch.ones(8, dtype=torch.bool)  # a mask that observes every pixel


@pytest.mark.parametrize(
    "name", [n for n in SAMPLERS if n not in ("level", "labelled", "descent")]
)
def test_a_seed_fixes_the_samples_and_batches_bound_memory(name):
    """Also the global generator is left alone."""
    stack = small_stack()
    before = torch.get_rng_state()
    a, b = (generate(stack, 7, name, seed=3) for _ in range(2))

    assert a.shape == (7, 8)
    assert torch.equal(a, b)
    assert not torch.equal(a, generate(stack, 7, name, seed=4))

    sizes = [len(x) for x in sampler_named(stack, name).stream(stack, 7, seeded(0), batch_size=3)]
    assert sizes == [3, 3, 1]
    assert ((a >= 0) & (a <= 1)).all()
    assert torch.equal(before, torch.get_rng_state())


def test_generate_is_algorithm_2():
    stack = small_stack([8, 6, 4])
    x = stack.decode(stack.prior.sample(5, seeded(1)))

    for _ in range(3):
        h = TargetPropInference(15, 0.1, alpha=0.3)(stack, x)
        x = stack.pairs[0].g(h[1])

    assert torch.allclose(generate(stack, 5, seed=1), x)

    quiet = LatentChainSampler(rounds=3, corruption=GaussianNoise(0.0))
    assert torch.allclose(generate(stack, 5, quiet, seed=1), x)


def test_ancestral_samples_have_the_law_of_the_linear_model():
    """With residual noise in hidden layers: Cov = W1 (W2 W2' + s^2 I) W1' (pixels are means)."""
    stack = linear_stack([3, 2, 2])
    w1, w2 = (pair.g.weight.detach() for pair in stack.pairs)

    x = AncestralSampler(noise=1.0)(stack, 200_000, seeded(0))
    noisy = w1 @ (w2 @ w2.T + 0.49 * torch.eye(2)) @ w1.T
    assert torch.allclose(torch.cov(x.T), noisy, rtol=0.03, atol=0.03)

    x = AncestralSampler()(stack, 200_000, seeded(0))
    assert torch.allclose(torch.cov(x.T), w1 @ w2 @ w2.T @ w1.T, rtol=0.03, atol=0.03)


def test_latent_chain_is_gibbs_sampling_where_inference_samples_the_posterior():
    """h ~ p(h | x) by Langevin, x = g(h): for the linear model Cov[h] is an AR(1) chain's."""
    stack = exact_encoder(linear_stack([3, 2]))
    s, _ = posterior(stack)
    inference = GradientInference(steps=60, delta=0.05, use_prior=True, temperature=1.0)
    chain = LatentChainSampler(rounds=25, inference=inference, corruption=GaussianNoise(0.0))
    x = chain(stack, 20_000, seeded(0), batch_size=20_000)

    w = stack.pairs[0].g.weight.detach()
    b = stack.pairs[0].g.bias.detach()
    a = s @ w.T @ w / 0.49  # E[h' | h], pixels being means
    cov = torch.eye(2).double()
    for _ in range(200):
        cov = a @ cov @ a.T + s

    assert torch.allclose(torch.cov((x - b).T), w @ cov @ w.T, rtol=0.1, atol=0.15)


def test_joint_chain_denoises_each_layer_from_a_neighbour():
    stack = small_stack()
    h = tuple(layer.detach() for layer in stack.encode(torch.rand(2000, 8)))
    quiet = [GaussianNoise(0.0)] * 4

    new = JointChainSampler(corruption=quiet).step(stack, h, seeded(0))
    assert torch.allclose(new[0], stack.pairs[0].g(h[1]))
    assert torch.allclose(new[3], stack.pairs[2].f(h[2]))

    above = stack.pairs[1].g(h[2])
    below = stack.pairs[0].f(h[0])
    is_above = (new[1] - above).abs().amax(1) < 1e-6
    is_below = (new[1] - below).abs().amax(1) < 1e-6
    assert bool((is_above ^ is_below).all())
    assert is_above.float().mean().item() == pytest.approx(0.5, abs=0.05)

    always = JointChainSampler(corruption=quiet, from_above=1.0).step(stack, h, seeded(0))
    assert torch.allclose(always[2], stack.pairs[2].g(h[3]))


@pytest.mark.parametrize("from_above", [0.0, 0.3, 1.0])
def test_joint_chain_has_the_variance_of_its_linear_recursion(from_above):
    """h <- A (h + noise): Cov = E[A (Cov + S) A'], A being one of two for the layer between."""
    stack = linear_stack([3, 2, 2])
    below, above = stack.pairs
    with torch.no_grad():
        for layer in (below.f, below.g, above.f, above.g):
            layer.weight.mul_(0.8)
            layer.bias.zero_()

    to_x = torch.zeros(7, 7).double()
    to_x[:3, 3:5] = below.g.weight.detach()
    to_x[5:, 3:5] = above.f.weight.detach()
    downwards = to_x.clone()
    downwards[3:5, 5:] = above.g.weight.detach()
    upwards = to_x.clone()
    upwards[3:5, :3] = below.f.weight.detach()

    start = torch.cat([part.T for part in stack.down(torch.eye(2).double())]).detach()
    covariance = start @ start.T
    sigmas = [0.9, 0.6, 1.2]
    noise = torch.tensor(sigmas).repeat_interleave(torch.tensor([3, 2, 2])).square().diag()
    for _ in range(4):
        noisy = covariance + noise
        moves = ((from_above, downwards), (1.0 - from_above, upwards))
        covariance = sum(share * a @ noisy @ a.T for share, a in moves)

    sampler = JointChainSampler(4, [GaussianNoise(sigma) for sigma in sigmas], from_above)
    x = sampler(stack, 200_000, seeded(0), batch_size=10_000)
    torch.testing.assert_close(torch.cov(x.T), covariance[:3, :3], rtol=0.03, atol=0.01)


def test_joint_chain_hands_on_the_values_of_discrete_units():
    stack = signs()
    h = stack.encode(torch.rand(50, 8))
    new = JointChainSampler(corruption=[FlipNoise(0.3)] * 3).step(stack, h, seeded(0))

    assert all(set(layer.unique().tolist()) == {-1.0, 1.0} for layer in new[1:])


def signs():
    stack = deep_autoencoder([8, 6, 4], units="sign")
    stack.prior.fit(stack.encode(torch.rand(20, 8))[-1])
    return stack


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: generate(small_stack(), 0), "n=0"),
        (lambda: generate(small_stack(), 2, "gibbs"), "generate, ancestral, chain, joint"),
        (lambda: generate(deep_autoencoder([8, 4]), 2), "not fitted"),
        (lambda: JointChainSampler(from_above=1.5), "from_above"),
        (
            lambda: generate(small_stack(), 2, JointChainSampler(corruption=[GaussianNoise(0.1)])),
            "4 representations",
        ),
        (lambda: GenerateSampler(rounds=-1), "rounds=-1"),
        (lambda: TargetPropInference(alpha=-0.1), "alpha=-0.1"),
        (lambda: generate(small_stack(), 2, LevelSampler(rounds=2)), "GaussianPrior .* sample"),
        (lambda: generate(small_stack(), 2, LevelSampler(5, 1)), r"level=5 is not in 0 .. 3"),
        (
            lambda: generate(small_stack(), 2, LevelSampler(1, 1, residual=1.0)),
            "call stack.fit_residuals",
        ),
        (
            lambda: generate(signs(), 2, "generate"),
            "sampler.inference=TargetPropInference moves real units",
        ),
        (
            lambda: inpaint(signs(), torch.rand(2, 8), ALL, Inpainter()),
            "moves real units, but h_1, h_2 of",
        ),
        (lambda: inpaint(small_stack(), torch.rand(2, 7), ALL[:7]), r"\(2, 7\)"),
        (lambda: inpaint(small_stack(), torch.rand(2, 8), torch.rand(8)), "0 and 1; True or 1"),
        (lambda: inpaint(small_stack(), torch.rand(2, 8), ALL[:7]), "does not fit"),
        (lambda: inpaint(small_stack(), torch.rand(2, 8) * 255, ALL), "divide by 255"),
        (lambda: inpaint(small_stack(), torch.full((2, 8), float("nan")), ALL), "16 NaN"),
    ],
)
def test_bad_requests(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", MASKS)
def test_named_masks(name):
    mask = named_mask(name, (6, 4)).view(6, 4)
    if name != "random":
        assert mask.sum() == 12

    corner = {"left": mask[5, 0], "right": mask[0, 3], "top": mask[0, 3], "bottom": mask[5, 0]}
    assert corner.get(name, True)


def test_inpainting_keeps_observed_pixels_and_ignores_what_stands_in_the_others():
    stack = small_stack()
    x = torch.rand(5, 8)
    mask = torch.rand(5, 8) < 0.5
    y = inpaint(stack, x, mask, seed=0)

    assert torch.equal(y[mask], x[mask])
    assert not torch.equal(y[~mask], x[~mask])

    spoiled = x.masked_fill(~mask, float("nan"))
    assert torch.equal(inpaint(stack, spoiled, mask, seed=0), y)
    assert torch.equal(inpaint(stack, x, mask, seed=0, batch_size=2)[mask], x[mask])


def test_linear_inpainting_finds_the_conditional_mean_of_the_missing_pixels():
    stack = linear_stack([6, 2])
    x = torch.rand(3, 6).double()
    mask = torch.arange(6) < 4
    inference = GradientInference(steps=2000, delta=0.05, use_prior=True)
    y = inpaint(stack, x, mask, Inpainter(2, inference, chains=1), seed=0)

    w = stack.pairs[0].g.weight.detach()
    b = stack.pairs[0].g.bias.detach()
    cov = w @ w.T + 0.49 * torch.eye(6)
    expected = b[4:] + (x[:, :4] - b[:4]) @ torch.linalg.solve(cov[:4, :4], cov[:4, 4:])
    assert torch.allclose(y[:, 4:], expected, atol=1e-5)


def test_inpainting_is_figure_5_with_one_quiet_chain_and_averages_several():
    stack = small_stack([8, 6, 4])
    x = torch.rand(3, 8)
    mask = torch.arange(8) < 5
    inference = TargetPropInference(4, 0.2, 0.3)

    filled = torch.where(mask, x, torch.rand(x.shape, generator=seeded(1)))
    for _ in range(2):
        h = inference(stack, filled, mask)
        filled = torch.where(mask, x, stack.pairs[0].g(h[1]))

    one = Inpainter(2, inference, chains=1)
    assert torch.allclose(inpaint(stack, x, mask, one, seed=1), filled)

    both = one(stack, x.repeat(2, 1), mask, generator=seeded(1)).h.view(2, 3, 8)
    two = Inpainter(2, inference, chains=2)
    assert torch.allclose(inpaint(stack, x, mask, two, seed=1), both.mean(0))
