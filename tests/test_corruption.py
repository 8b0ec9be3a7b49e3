import pytest
import torch

from gendae.corruption import GaussianNoise, MaskingNoise, SaltAndPepperNoise, SpikeNoise


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
        (lambda: MaskingNoise(), "probability=None and count=None: one of them"),
        (lambda: MaskingNoise(0.1, 1), "probability=0.1 and count=1: one of them"),
        (lambda: MaskingNoise(1.1), "probability=1.1: a number in"),
        (lambda: MaskingNoise(count=-1), "count=-1"),
        (lambda: MaskingNoise(0.1, value=float("inf")), "value=inf: a finite number"),
        (lambda: MaskingNoise(count=1, decay=0.5), "decay=0.5 is of a probability"),
        (lambda: MaskingNoise(count=5)(torch.zeros(2, 4)), "count=5: of h's 4 units, no more"),
        (lambda: SaltAndPepperNoise(float("nan")), "probability=nan"),
        (lambda: SaltAndPepperNoise(0.1, decay=-1.0), "decay=-1.0"),
        (lambda: SaltAndPepperNoise(0.1, 1.0, 1.0), "low=1.0, high=1.0: the lower end"),
        (lambda: SaltAndPepperNoise(0.1, high=float("nan")), "high=nan: a finite number"),
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


N = 40_000
#: Four deviations of a frequency over N * 6 units.
NEAR = 4.0 * 0.5 / (N * 6) ** 0.5
H = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).expand(N, 6)


@pytest.mark.parametrize(
    ("noise", "progress", "shares"),
    [
        (MaskingNoise(0.3), 0.7, {0.0: 0.3}),
        (MaskingNoise(0.3, value=-2.0), 0.0, {-2.0: 0.3}),
        (MaskingNoise(0.4, decay=0.5), 0.5, {0.0: 0.3}),
        (MaskingNoise(0.4, decay=0.0), 1.0, {0.0: 0.0}),
        (MaskingNoise(1.0), 0.0, {0.0: 1.0}),
        (MaskingNoise(0.0), 0.0, {0.0: 0.0}),
        (SaltAndPepperNoise(0.3), 0.7, {0.0: 0.15, 1.0: 0.15}),
        (SaltAndPepperNoise(0.4, -1.0, 1.5, decay=0.5), 0.5, {-1.0: 0.15, 1.5: 0.15}),
        (SaltAndPepperNoise(1.0), 0.0, {0.0: 0.5, 1.0: 0.5}),
        (SaltAndPepperNoise(0.0), 0.0, {0.0: 0.0}),
    ],
)
def test_units_take_the_values_as_often_as_told_each_on_its_own(noise, progress, shares):
    """The others keep what they had; a progress on the device has the same level."""
    noisy = noise(H, progress, torch.Generator().manual_seed(0))
    changed = torch.zeros_like(H, dtype=torch.bool)
    for value, share in shares.items():
        changed |= noisy == value
        assert (noisy == value).double().mean().item() == pytest.approx(share, abs=NEAR)

    assert torch.equal(noisy[~changed], H[~changed])

    p = sum(shares.values())
    counts = changed.sum(1).double()
    assert changed.double().mean(0).sub(p).abs().max() < 6**0.5 * NEAR + 1e-12
    assert counts.var().item() == pytest.approx(6 * p * (1 - p), rel=0.03)

    again = noise(H, torch.tensor(progress), torch.Generator().manual_seed(0))
    assert torch.equal(again, noisy)


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_a_number_of_hidden_units_is_exact_and_any_units_are_as_probable(count):
    """Two units are hidden together with probability k (k - 1) / (d (d - 1))."""
    hidden = MaskingNoise(count=count)(H, generator=torch.Generator().manual_seed(0)) == 0.0

    assert (hidden.sum(1) == count).all()
    together = hidden.double().T @ hidden.double() / N
    expected = torch.full((6, 6), count * (count - 1) / 30.0, dtype=torch.float64)
    expected.fill_diagonal_(count / 6.0)
    assert torch.allclose(together, expected, atol=6**0.5 * NEAR)
