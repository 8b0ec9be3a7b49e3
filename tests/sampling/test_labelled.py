"""Samples of one class: where they start, and what a clamped label does."""

import torch

from gendae.inference import TargetPropInference
from gendae.models.architectures import deep_autoencoder, with_labels
from gendae.sampling.labelled import LabelledSampler
from gendae.sampling.samplers import GenerateSampler, seeded


def model():
    stack = with_labels(deep_autoencoder([8, 6, 4]), classes=3, gain=9.0).double()
    stack.prior.fit(stack.encode(torch.rand(50, 8, dtype=torch.float64))[-1].detach())

    return stack


def test_starts_have_the_law_of_the_prior_given_the_label():
    """Their mean is that of the prior's samples, weighed by p(y | h)."""
    stack = model()
    pool = stack.prior.sample(20_000, seeded(1)).detach()
    fit = stack.label.g(pool)[:, 2]
    expected = (fit[:, None] * pool).sum(0) / fit.sum()

    sampler = LabelledSampler(label=2, candidates=100)
    h = sampler.start(stack, stack.prior.sample(4000, seeded(2)), seeded(3))

    error = (h[-1].mean(0) - expected).abs() / pool.std(0)
    assert error.max() < 0.08
    assert ((pool.mean(0) - expected).abs() / pool.std(0)).max() > 0.2
    torch.testing.assert_close(h[0], stack.down(h[-1])[0])


def test_without_weight_a_round_is_that_of_generate():
    stack = model()
    h = stack.encode(torch.rand(5, 8, dtype=torch.float64))
    options = {"steps": 5, "alpha": 0.3}

    plain = GenerateSampler(inference=TargetPropInference(**options)).step(stack, h, None)
    free = TargetPropInference(**options, label_weight=0.0)
    for a, b in zip(plain, LabelledSampler(1, inference=free).step(stack, h, None), strict=True):
        assert torch.equal(a, b)


def test_a_round_moves_the_top_as_inference_given_the_label_does():
    stack = model()
    h = stack.encode(torch.rand(5, 8, dtype=torch.float64))
    inference = TargetPropInference(5, alpha=0.3, label_weight=2.0)

    y = torch.eye(3, dtype=torch.float64)[[1] * 5]
    expected = inference(stack, h[0], y=y)
    found = LabelledSampler(1, inference=inference).step(stack, h, None)

    torch.testing.assert_close(found[1:], expected[1:])
    torch.testing.assert_close(found[0], stack.pairs[0].g(expected[1]))
