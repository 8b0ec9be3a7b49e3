import pytest
import torch

from gendae.corruption import GaussianNoise, SpikeNoise


def test_gaussian_noise_has_the_level_asked_for():
    h = torch.full((4000, 50), 2.0, dtype=torch.float64)
    noisy = GaussianNoise(0.4, decay=0.5)(h, progress=0.5)
    assert noisy.mean().item() == pytest.approx(2.0, abs=5e-3)
    assert noisy.std().item() == pytest.approx(0.3, rel=0.01)


def test_zero_noise_is_the_identity():
    h = torch.rand(3, 4)
    assert GaussianNoise(0.0)(h) is h
    assert torch.equal(GaussianNoise(0.7, decay=0.0)(h, progress=1.0), h)


@pytest.mark.parametrize("draws", [1, 3, 10])
def test_spikes_have_the_moments_of_a_binomial_mean(draws):
    p = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    spikes = SpikeNoise(draws)(p.expand(20_000, 10))
    assert torch.allclose(spikes.mean(0), p, atol=0.015)
    assert torch.allclose(spikes.var(0), p * (1 - p) / draws, atol=0.01)
    assert torch.allclose((spikes * draws).round(), spikes * draws)


def test_spikes_of_values_outside_the_unit_interval_are_certain():
    assert torch.equal(SpikeNoise(3)(torch.tensor([[-0.2, 1.2]])), torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize("noise", [GaussianNoise(0.5), SpikeNoise(3)])
def test_a_generator_makes_noise_repeatable_and_leaves_the_global_one_alone(noise):
    h, before = torch.rand(5, 6), torch.get_rng_state()
    a, b = (noise(h, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "make", [lambda: GaussianNoise(-1), lambda: GaussianNoise(float("nan")), lambda: SpikeNoise(0)]
)
def test_bad_levels_are_refused(make):
    with pytest.raises(ValueError, match="is needed"):
        make()


@pytest.mark.parametrize(
    ("half_life", "progress", "level"),
    [(0.2, 0.0, 0.6), (0.2, 0.2, 0.3), (0.2, 0.4, 0.2), (0.2, 1.0, 0.1), (5.0, 1.0, 0.5)],
)
def test_noise_with_a_half_life_decays_hyperbolically(half_life, progress, level):
    noise = GaussianNoise(0.6, half_life=half_life)
    assert noise.level(progress) == pytest.approx(level, rel=1e-12)
    h = torch.full((4000, 50), 2.0, dtype=torch.float64)
    assert noise(h, progress).std().item() == pytest.approx(level, rel=0.01)


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("nan")])
def test_a_half_life_is_positive(half_life):
    with pytest.raises(ValueError, match="half_life="):
        GaussianNoise(0.5, half_life=half_life)


def test_a_half_life_and_a_linear_decay_exclude_each_other():
    with pytest.raises(ValueError, match="decay=0.5 and half_life=0.1"):
        GaussianNoise(0.5, decay=0.5, half_life=0.1)
