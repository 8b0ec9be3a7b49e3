import pytest
import torch

from gendae.corruption import GaussianNoise, SpikeNoise


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianNoise(-1), "is needed"),
        (lambda: GaussianNoise(float("nan")), "is needed"),
        (lambda: SpikeNoise(0), "is needed"),
        (lambda: GaussianNoise(0.5, half_life=0.0), "half_life="),
        (lambda: GaussianNoise(0.5, half_life=-1.0), "half_life="),
        (lambda: GaussianNoise(0.5, half_life=float("nan")), "half_life="),
        (lambda: GaussianNoise(0.5, decay=0.5, half_life=0.1), "decay=0.5 and half_life=0.1"),
    ],
)
def test_bad_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("noise", "progress", "level"),
    [
        (GaussianNoise(0.4, decay=0.5), 0.5, 0.3),
        (GaussianNoise(0.6, half_life=0.2), 0.0, 0.6),
        (GaussianNoise(0.6, half_life=0.2), 0.2, 0.3),
        (GaussianNoise(0.6, half_life=0.2), 0.4, 0.2),
        (GaussianNoise(0.6, half_life=0.2), 1.0, 0.1),
        (GaussianNoise(0.6, half_life=5.0), 1.0, 0.5),
    ],
)
def test_noise_decays_linearly_or_hyperbolically_to_the_level_asked_for(noise, progress, level):
    h = torch.full((4000, 50), 2.0, dtype=torch.float64)
    noisy = noise(h, progress=progress)

    assert noise.level(progress) == pytest.approx(level, rel=1e-12)
    assert noisy.mean().item() == pytest.approx(2.0, abs=5e-3)
    assert noisy.std().item() == pytest.approx(level, rel=0.01)
