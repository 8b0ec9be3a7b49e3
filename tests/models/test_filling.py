"""Bands that fill in: exact for Gaussian images, whatever their scale, and refused where wrong."""

import math

import pytest
import torch
from torch import nn

import gendae
from gendae.models import filling as room
from gendae.models.filling import Filling, FillingBand, Units
from gendae.priors.descents import HeunDescent
from gendae.rules.moment import Moment

SHAPE = (2, 3)
SPREAD = 0.7
PARTS = Filling(SHAPE, nothing=0.2, relative=False)
LEVELS = gendae.LogUniformLevels(0.01, 200.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class OfCovariance(nn.Module):
    """F of the exact denoiser of N(0, C) with noise of level s on missing elements alone."""

    def __init__(self, covariance, error=1.0):
        super().__init__()
        self.covariance = nn.Parameter(covariance.clone())
        self.error = error

    @torch.no_grad()
    def forward(self, z, level, condition):
        given, _ = condition.chunk(2, 1)
        sigma = (4.0 * level[:, None]).exp()
        v = SPREAD**2
        noise = sigma**2 * (1.0 - given)
        noisy = z * (v + noise).sqrt()
        gain = torch.linalg.inv(self.covariance + torch.diag_embed(noise))
        x = (noisy[:, None] @ gain @ self.covariance)[:, 0]
        rest = (x - v / (v + sigma**2) * noisy) / (sigma * (v / (v + sigma**2)).sqrt())

        return self.error * rest


def covariance(n=6):
    root = torch.randn(n, n, generator=generator(), dtype=torch.float64)
    return root @ root.T / n + 0.1 * torch.eye(n)


def blocks(network, filling=PARTS, blocks=2):
    width = math.prod(filling.shape)
    stack = gendae.denoising_blocks(width, blocks, LEVELS, network, SPREAD, filling)
    return stack.double()


@pytest.fixture
def as_it_is(monkeypatch):
    """Images in units of their own: mean 0, size 1."""

    def plain(self, x, given):
        return Units(torch.zeros_like(x), torch.ones_like(x[:, :1]))

    monkeypatch.setattr(FillingBand, "units", plain)


@pytest.mark.parametrize("seen", [0b000001, 0b101010, 0b110111])
def test_one_step_is_the_mean_of_what_is_missing_and_descents_draw_it(as_it_is, seen):
    c = covariance()
    given = torch.tensor([bool(seen >> i & 1) for i in range(6)])
    x = torch.randn(3, 6, generator=generator(1), dtype=torch.float64)
    gain = c[~given][:, given] @ torch.linalg.inv(c[given][:, given])
    left = c[~given][:, ~given] - gain @ c[given][:, ~given]

    stack = blocks(OfCovariance(c))
    clamped = given.expand_as(x)
    once = gendae.DescentInpainter(HeunDescent(1), chains=4)
    mean = once(stack, x, clamped, generator=generator()).h
    torch.testing.assert_close(mean[:, ~given], x[:, given] @ gain.T, atol=0.05, rtol=0)
    assert torch.equal(mean[:, given], x[:, given])

    many = gendae.DescentInpainter(HeunDescent(60, stop=0.01), chains=1)
    same = x[:1].expand(4000, -1)
    draws = many(stack, same, given.expand_as(same), generator=generator()).h[:, ~given]
    torch.testing.assert_close(draws.mean(0), (x[:1, given] @ gain.T)[0], atol=0.1, rtol=0)
    torch.testing.assert_close(draws.T.cov().view_as(left), left, atol=0.12, rtol=0)


def test_the_loss_is_lowest_at_the_exact_denoiser(as_it_is):
    c = covariance()
    root = torch.linalg.cholesky(c)
    x = torch.randn(4000, 6, generator=generator(2), dtype=torch.float64) @ root.T

    losses = []
    for error in (0.7, 1.0, 1.3):
        rule = gendae.DenoisingBlocksRule(blocks(OfCovariance(c, error)))
        losses.append(list(rule.losses((x,), Moment(0.5, generator(3))).values()))
    low, exact, high = torch.tensor(losses)
    assert bool((exact < low).all())
    assert bool((exact < high).all())


@pytest.mark.parametrize("relative", [False, True])
def test_the_loss_is_that_of_the_missing_elements_by_hand(relative):
    network = gendae.LevelConv((1, *SHAPE), 4, 1, conditions="channels")
    parts = Filling(SHAPE, relative=relative)
    band = FillingBand(parts, LEVELS, (0.2, 0.9), network, SPREAD).double()
    nn.init.normal_(band.network.leave.weight)
    x = torch.rand(7, 6, generator=generator(), dtype=torch.float64)
    given = torch.rand(7, 6, generator=generator()) < 0.5
    given[0] = False
    value = band.loss(x, generator(5), given)

    draws = generator(5)
    sigma = band.levels.between(torch.rand(7, 1, generator=draws, dtype=x.dtype), (0.2, 0.9))
    noise = torch.randn(7, 6, generator=draws, dtype=x.dtype)
    v = SPREAD**2
    expected = 0.0
    for row in range(7):
        seen = given[row]
        k = room.LITTLE
        count = seen.double().sum() + k
        m = x[row, seen].sum() / count
        r = ((x[row, seen] - m).square().sum() + k * v) / count / v
        z = (x[row] - m) / r.sqrt()
        s = sigma[row]
        noisy = torch.where(seen, z, z + s * noise[row])
        scaled = noisy / (v + torch.where(seen, 0.0, s**2)).sqrt()
        condition = torch.cat([seen.double(), torch.where(seen, z / SPREAD, 0.0)])
        F = band.network(scaled[None], 0.25 * s.log(), condition[None])[0]
        D = v / (v + s**2) * (z + s * noise[row]) + s * math.sqrt(v) / (v + s**2).sqrt() * F
        weight = (v + s**2) / (v * s**2)
        weight *= v / (v + z[~seen].square().mean()) if relative else 1.0
        expected += (weight * (D - z)[~seen].square().mean()).item() / 7
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_what_is_filled_in_follows_brightness_and_contrast(monkeypatch):
    monkeypatch.setattr(room, "LITTLE", 0.0)
    parts = Filling((3, 2, 4))
    network = gendae.LevelConv((3, 2, 4), 4, 1, conditions="channels", fold=2)
    stack = blocks(network, parts)
    for pair in stack.pairs:
        nn.init.normal_(pair.g.network.leave.weight, std=0.05)

    x = torch.rand(5, 24, generator=generator(), dtype=torch.float64)
    mask = gendae.named_mask("left", (3, 2, 4)).expand_as(x)
    inpainter = gendae.DescentInpainter(HeunDescent(4, stop=0.1), chains=2)
    by_channel = torch.tensor([0.1, -0.2, 0.3]).repeat_interleave(8).double()
    once, other = (
        inpainter(stack, image, mask, generator=generator()).h
        for image in (x, 0.25 * x + by_channel)
    )
    torch.testing.assert_close(other, 0.25 * once + by_channel, atol=1e-10, rtol=0)


def test_gated_convolutions_do_not_care_for_contrast():
    network = gendae.GatedConv((3, 4, 4), channels=5, layers=2, fold=2)
    network.prepare(48, 96)
    network.double()
    nn.init.normal_(network.leave.weight)
    z, seen = torch.randn(2, 5, 48, generator=generator(), dtype=torch.float64)
    given = (torch.rand(5, 48, generator=generator()) < 0.5).double()
    level = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)

    once = network(z, level, torch.cat([given, given * seen], 1))
    more = network(7.0 * z, level, torch.cat([given, 7.0 * given * seen], 1))
    torch.testing.assert_close(more, 7.0 * once, atol=1e-12, rtol=1e-12)
    other = network(z, level + 0.5, torch.cat([given, given * seen], 1))
    assert (other - once).abs().max() > 1e-3

    band = FillingBand(Filling((3, 4, 4)), network=gendae.GatedConv((3, 4, 4), 5, 1))
    x = torch.rand(3, 48)
    band.loss(x, generator()).backward()
    assert band.network.leave.weight.grad.abs().max() > 0


def test_with_nothing_given_images_are_as_they_are():
    x = torch.rand(3, 6, generator=generator())
    units = Units.of(x, torch.zeros(3, 6, dtype=torch.bool), SHAPE, SPREAD)
    torch.testing.assert_close(units.enter(x), x)
    torch.testing.assert_close(units.leave(units.enter(x)), x)


def test_parts_are_none_pixels_or_a_side():
    parts = Filling((3, 8, 8), nothing=0.25, least=0.25, most=0.75)
    given = parts(torch.zeros(8000, 192), generator()).view(-1, 3, 8, 8)
    assert bool((given == given[:, :1]).all())

    given = given[:, 0]
    some = given.flatten(1).any(1)
    assert abs(some.double().mean() - 0.75) < 0.02

    columns = (given == given[:, :1]).flatten(1).all(1) & some
    rows = (given == given[:, :, :1]).flatten(1).all(1) & some
    for side, line in ((columns, given[:, 0]), (rows, given[:, :, 0])):
        assert abs(side.double().mean() - 0.75 / 4) < 0.02
        first = line[side][:, 0].double().mean()
        assert abs(first - 0.5) < 0.05
        assert bool((line[side].int().diff(dim=1).abs().sum(1) == 1).all())

    shares = given[some & ~columns & ~rows].double().mean((1, 2))
    assert abs(shares.mean() - 0.5) < 0.01
    assert 0.28 < shares.std() / math.sqrt(1 / 12 / 4 + 0.25 / 64) * 0.29 < 0.32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Filling((3, 8, 8), least=0.6, most=0.4), "least=0.6, most=0.4"),
        (lambda: Filling((5, 8, 8)), "shape="),
        (lambda: Filling((8, 8), nothing=1.5), "nothing=1.5"),
        (lambda: gendae.denoising_blocks(7, filling=PARTS), "elements, and width=7"),
        (
            lambda: gendae.denoising_blocks(
                6, network=gendae.LevelConv((1, 2, 3), fold=2), filling=PARTS
            ),
            "do not cover an image of 2 x 3",
        ),
        (
            lambda: gendae.LevelConv((1, 2, 3), conditions="channels").prepare(6, 5),
            "5 numbers are no images of 2 x 3 pixels",
        ),
        (lambda: gendae.LevelConv((1, 2, 3), conditions="both"), "conditions='both'"),
        (lambda: gendae.GatedConv((1, 2, 3), kernel=4), "kernel=4: an odd number is needed"),
        (
            lambda: gendae.denoising_blocks(6, network=gendae.GatedConv((1, 2, 3))),
            "GatedConv is told what is given, 12 numbers, and not 0; LevelConv takes other",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_bands_of_two_kinds_are_refused():
    filled, plain = (gendae.denoising_blocks(6, 2, LEVELS, filling=p) for p in (PARTS, None))
    with pytest.raises(ValueError, match=r"bands of one kind are needed, .*'Band', 'FillingBand'"):
        gendae.DenoisingBlocksRule(gendae.Stack(plain.pairs[0], filled.pairs[1]))
