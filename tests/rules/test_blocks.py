"""Blocks of a band of noise each: exact for Gaussian data and for labels, local, refused."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import gendae
from gendae.data.images import Digits
from gendae.layers.affine import Affine
from gendae.metrics.bounds import importance_weighted_bound
from gendae.models.blocks import Band, Unchanged, noise_pair
from gendae.models.classifier import label_loss
from gendae.models.label_blocks import LabelBlock
from gendae.priors.denoiser import LevelMLP
from gendae.priors.descents import HeunDescent, LangevinDescent
from gendae.priors.levels import LogNormalLevels, LogUniformLevels
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.sampling.descent import DescentSampler
from tests.conftest import at
from tests.rules.test_base import trainer

SMALL = LevelMLP(8, 1, 2)
LEVELS = LogUniformLevels(0.01, 20.0)


def untrained(width=3, blocks=3, spread=0.7):
    """Its networks are 0, so that D is that of N(0, spread^2 I)."""
    return gendae.denoising_blocks(width, blocks, LEVELS, SMALL, spread).double()


# -- Gaussian data -------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 4])
def test_untrained_blocks_are_the_exact_model_of_gaussian_data(blocks):
    """p(x, h) / q(h | x) is then p(x) for every h: one sample of Q is enough."""
    stack = untrained(blocks=blocks)
    x = torch.randn(20, 3, dtype=torch.float64)
    bound = importance_weighted_bound(stack, x, k=1, generator=torch.Generator().manual_seed(0))

    exact = torch.distributions.Normal(0.0, 0.7).log_prob(x).sum(1)
    torch.testing.assert_close(bound, exact, atol=1e-6, rtol=0)


def test_a_block_gives_the_mean_of_what_has_less_noise():
    """E[h_{l-1} | h_l] of Gaussians is h_l times the variances' ratio."""
    stack = untrained()
    h = torch.randn(5, 3, dtype=torch.float64)

    for pair in stack.pairs:
        low, high = pair.g.low, pair.g.high
        ratio = (0.49 + low**2) / (0.49 + high**2)
        torch.testing.assert_close(pair.g(h), ratio * h)
        assert pair.recognition.sigma == pytest.approx(math.sqrt(high**2 - low**2))


class OfCovariance(nn.Module):
    """F of the exact denoiser of N(0, C): linear, another map at each level."""

    def __init__(self, covariance, spread):
        super().__init__()
        self.covariance = nn.Parameter(covariance.clone())
        self.v = spread**2

    @torch.no_grad()
    def forward(self, z, level):
        sigma = (4.0 * level[0]).exp()
        scale = (self.v + sigma**2).sqrt()
        noisy = z * scale
        gain = torch.linalg.inv(self.covariance + sigma**2 * torch.eye(len(self.covariance)))
        x = noisy @ gain @ self.covariance

        return (x - self.v / scale**2 * noisy) * scale / (sigma * math.sqrt(self.v))


def test_descents_of_exact_linear_blocks_draw_the_data():
    """Several blocks with one exact denoiser each: samples have the data's covariance."""
    covariance = torch.tensor([[0.5, 0.3], [0.3, 0.4]])
    exact = OfCovariance(covariance, 0.7)
    stack = gendae.denoising_blocks(2, 3, LEVELS, exact, spread=0.7)

    descent = HeunDescent(40, stop=0.01, churn=0.0)
    x = gendae.generate(stack, 20_000, DescentSampler(descent), seed=0)

    assert (torch.cov(x.T) - covariance).abs().max() < 0.015


def test_clamped_descents_find_the_conditional_mean():
    """E[x_2 | x_1] of N(0, C) is C_21 / C_11 x_1; observed values stay as given."""
    covariance = torch.tensor([[0.5, 0.3], [0.3, 0.4]])
    stack = gendae.denoising_blocks(2, 2, LEVELS, OfCovariance(covariance, 0.7), spread=0.7)
    x = torch.tensor([[0.2, 0.0], [0.9, 0.0]])

    descent = LangevinDescent(400, stop=0.01, rounds=1, rate=0.5)
    inpainter = gendae.DescentInpainter(descent, chains=2000)
    seen = torch.tensor([True, False])
    y = gendae.inpaint(stack, x, seen, inpainter, seed=0, batch_size=4000)

    assert torch.equal(y[:, 0], x[:, 0])
    assert (y[:, 1] - 0.6 * x[:, 0]).abs().max() < 0.06


def test_exact_blocks_have_the_least_loss():
    """The expected loss of the exact denoiser is 1 - the share that it explains, below others'."""
    covariance = torch.tensor([[0.5, 0.3], [0.3, 0.4]])
    x = torch.randn(20_000, 2) @ torch.linalg.cholesky(covariance).T

    losses = {}
    for name, network in {"exact": OfCovariance(covariance, 0.7), "untrained": SMALL}.items():
        band = Band(2, LEVELS, (0.3, 0.6), network, spread=0.7)
        losses[name] = band.loss(x, torch.Generator().manual_seed(0)).item()

    wrong = OfCovariance(1.5 * covariance, 0.7)
    losses["wrong"] = (
        Band(2, LEVELS, (0.3, 0.6), wrong, spread=0.7)
        .loss(x, torch.Generator().manual_seed(0))
        .item()
    )
    assert losses["exact"] < losses["wrong"] < losses["untrained"]


# -- labels --------------------------------------------------------------------------------------


class OfClasses(nn.Module):
    """F of the exact denoiser of one-hot labels, given log p(y | x) as the condition."""

    def forward(self, z, level, log_p):
        sigma = (4.0 * level).exp()[:, None]
        v = 1.0 / z.shape[1]
        scale = (v + sigma**2).sqrt()
        noisy = z * scale
        y = torch.softmax(log_p + noisy / sigma**2, -1)

        return (y - v / scale**2 * noisy) * scale / (sigma * math.sqrt(v))


def exact_classifier(blocks):
    levels = LogUniformLevels(1.0, 20.0)
    network = gendae.denoising_classifier([4, 4], 4, blocks, levels, OfClasses()).double()
    for pair in network.pairs:
        encoder = Affine(4, 4)
        encoder.weight.data.copy_(torch.eye(4))
        pair.f.encoder = encoder.double()

    return network


@pytest.mark.parametrize("blocks", [1, 3])
def test_exact_blocks_of_labels_answer_as_the_posterior_does(blocks):
    """From the mean of noise, D is p(y | x) at the highest level; the way down keeps its order."""
    network = exact_classifier(blocks)
    log_p = torch.randn(50, 4, dtype=torch.float64).log_softmax(1)

    top = network.pairs[0].f
    first = top.band.denoise(top.begin(log_p), top.band.high, log_p)
    torch.testing.assert_close(first, log_p.exp())
    assert torch.equal(network(log_p)[0].argsort(1), log_p.argsort(1))


def test_the_output_layer_learns_from_the_chain_as_from_a_constant():
    torch.manual_seed(0)
    rule = gendae.DenoisingLabelsRule(gendae.denoising_classifier([8, 5, 4], 3, blocks=2))
    for p in rule.stack.parameters():
        nn.init.normal_(p, std=0.3)
    batch = (torch.rand(10, 8), torch.randint(3, (10,)))

    loss = rule.losses(batch, at(0))["label_f_3"]
    torch.testing.assert_close(loss, label_loss(rule.stack(batch[0]), batch[1]))
    torch.testing.assert_close(loss, rule.global_loss(batch))


# -- training ------------------------------------------------------------------------------------


def test_blocks_in_turn_learn_one_at_an_update():
    rule = gendae.DenoisingBlocksRule(untrained(), schedule="in turn")
    x = torch.rand(4, 3, dtype=torch.float64)
    learned = [list(rule.losses((x,), Moment(update=update))) for update in range(4)]

    assert learned == [["denoise_g_1"], ["denoise_g_2"], ["denoise_g_3"], ["denoise_g_1"]]
    assert len(rule.losses((x,))) == 3


def generative():
    network = LevelMLP(64, 1)
    return gendae.DenoisingBlocksRule(
        gendae.denoising_blocks(64, 2, network=network), rates=Rates(g=3e-3)
    )


def of_labels():
    network = gendae.denoising_classifier([64, 60, 30], blocks=2)
    return gendae.DenoisingLabelsRule(network, rates=Rates(f=3e-3))


@pytest.mark.parametrize(
    ("make", "measure", "below"),
    [(generative, "val/denoise_g_2", 0.55), (of_labels, "val/error", 0.12)],
)
def test_digits_are_learned_and_kept_by_files(make, measure, below, tmp_path):
    torch.manual_seed(0)
    rule = make()
    fitted = trainer(max_epochs=10)
    fitted.fit(rule, Digits(50))
    assert fitted.callback_metrics[measure] < below

    again = gendae.load(gendae.save(rule.stack, tmp_path / "m.safetensors"))
    x = Digits().split("test").x[:5]
    if hasattr(again, "predict"):
        assert torch.equal(again.predict(x), rule.stack.predict(x))
    else:
        samples = gendae.generate(rule.stack, 4, seed=0)
        assert torch.equal(gendae.generate(again, 4, seed=0), samples)
        assert 0.2 < samples.std() < 0.6


# -- what is refused -----------------------------------------------------------------------------


def stack_of_shares(*shares):
    bands = [Band(4, LogNormalLevels(), share, SMALL) for share in shares]
    return gendae.Stack(*map(noise_pair, bands))


def classifier_of_shares(*shares):
    pairs = []
    for share in shares:
        band = Band(3, LEVELS, share, SMALL, condition=2)
        f = LabelBlock(Affine(4, 2), band, first=not pairs)
        pairs.append(gendae.Pair(f, Unchanged(f.out_features, f.in_features)))

    return gendae.Classifier(*pairs, output=gendae.LabelLogits(7, 3))


def descend(stop):
    return gendae.generate(untrained(), 2, DescentSampler(HeunDescent(stop=stop, highest=99.0)))


LOW, HIGH = (0.0, 0.5), (0.5, 1.0)
OTHER = partial(gendae.deep_autoencoder, [4, 2])
LABELS = partial(gendae.denoising_classifier, [4, 3], 3)
REFUSED = [
    (lambda: gendae.DenoisingBlocksRule(stack_of_shares(HIGH, LOW)), "stack: band 1 begins at"),
    (lambda: gendae.DenoisingBlocksRule(stack_of_shares(LOW, (0.6, 1.0))), "stack: band 2 begins"),
    (lambda: gendae.DenoisingBlocksRule(OTHER()), "pair 1 is of Affine and Affine; accepted"),
    (lambda: gendae.DenoisingBlocksRule(LABELS()), "stack=Classifier"),
    (lambda: gendae.DenoisingBlocksRule(untrained(), "together"), "schedule='together'"),
    (lambda: gendae.DenoisingLabelsRule(classifier_of_shares(LOW, HIGH)), "stack: band 1 begins"),
    (lambda: gendae.DenoisingLabelsRule(untrained()), "stack=Stack has no output layer"),
    (lambda: gendae.DenoisingLabelsRule(gendae.deep_classifier([4, 3], 3)), "f_1 is Affine"),
    (lambda: gendae.denoising_blocks(4, blocks=0), "blocks=0"),
    (lambda: LABELS(blocks=0), "blocks=0"),
    (lambda: Band(4, shares=(0.5, 0.5)), r"shares=\[0.5, 0.5\]|shares=\(0.5, 0.5\)"),
    (lambda: Band(4, spread=0.0), "spread=0"),
    (lambda: LabelBlock(Affine(4, 2), Band(3)), "band is conditioned on 0 units"),
    (lambda: descend(20.5), "descent.stop=20.5: it has to be below 20"),
    (lambda: gendae.generate(OTHER(), 2, DescentSampler()), "stack: pair 1 is of Affine"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()

    assert "\n" not in str(error.value)
