"""Precision: every rule in float32, float64 and bf16-mixed; scores no global switch can change."""

from types import SimpleNamespace

import pytest
import torch

import gendae
from gendae.data.images import Digits
from gendae.metrics.bounds import importance_weighted_bound
from gendae.metrics.features import FeatureClassifier
from gendae.metrics.neighbours import data_copying, precision_recall_density_coverage
from gendae.metrics.parzen import ParzenLogLikelihood, choose_sigma
from gendae.metrics.quality import sample_quality
from gendae.models.architectures import deep_autoencoder
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import parzen_log_prob
from gendae.rules import options
from tests.conftest import at
from tests.roles import RULES as CASES
from tests.rules.test_base import trainer
from tests.training.test_determinism import RULES


@pytest.fixture(params=["medium", "high"])
def coarse(request):
    """The global matmul precision, turned down; some processors then multiply in bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


def scores():
    g = torch.Generator().manual_seed(0)
    samples, train, held_out = (torch.rand(150, 64, generator=g) for _ in range(3))
    metric = ParzenLogLikelihood(samples, sigma=0.2)
    metric.update(train)

    torch.manual_seed(0)
    stack = deep_autoencoder([64, 8], ["linear"], noise=0.3, prior=GaussianPrior("identity", 1.0))
    quality = sample_quality(samples, train, held_out, FeatureClassifier((8, 8)))

    values = {
        "parzen": parzen_log_prob(train, samples, 0.2),
        "metric": metric.compute(),
        "sigma": torch.tensor(choose_sigma(held_out, samples)),
        "neighbours": torch.tensor(list(precision_recall_density_coverage(train, samples))),
        "copying": torch.tensor(data_copying(train, held_out, samples)),
        "bound": importance_weighted_bound(stack, train[:20], 10, generator=g),
    }
    for name, value in quality.items():
        if value is not None:
            values[name] = torch.tensor(value)

    return values


@pytest.fixture(scope="module")
def fine():
    return scores()


def test_scores_are_immune_to_the_global_matmul_precision(fine, coarse):
    for name, value in scores().items():
        assert torch.equal(value, fine[name]), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("name", RULES)
def test_rules_train_in_each_supported_precision(name, precision):
    torch.manual_seed(0)
    rule = RULES[name]()
    before = torch.cat([p.detach().flatten() for p in rule.stack.parameters()]).clone()

    t = trainer(max_epochs=2, precision=precision)
    t.fit(rule, Digits())
    after = torch.cat([p.detach().flatten() for p in rule.stack.parameters()])

    assert after.dtype == {"64-true": torch.float64}.get(precision, torch.float32)
    assert bool(torch.isfinite(after).all())
    assert not torch.equal(before.to(after), after)
    assert t.global_step == 2 * 11


#: Rules that compare small differences: they compute all of their losses in single precision.
FULL = (
    gendae.NodePerturbationRule,
    gendae.WeightPerturbationRule,
    gendae.PredictiveCodingRule,
    gendae.WakeSleepRule,
    gendae.ReweightedWakeSleepRule,
    gendae.ImportanceWeightedRule,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_losses_under_bfloat16_autocast_are_near_those_in_single_precision(case):
    """Each loss is finite, and of the size that it has without; the same, where digits count."""
    rule = case.built(torch.float32)
    batch = case.batch(90, torch.float32)

    losses = {}
    for autocast in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses[autocast] = rule.losses(batch, at())

    for name, value in losses[False].items():
        if name.startswith("feedback"):  # estimates from a few draws
            assert torch.isfinite(losses[True][name])
            continue

        close = 0.15 * abs(value.item()) + 0.15  # noise is drawn in bfloat16, too: other draws
        if isinstance(rule, FULL):
            close = 1e-5 * (1.0 + abs(value.item()))
        assert abs(losses[True][name].float().item() - value.item()) < close, name


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_half_precision_is_refused_with_what_is_accepted(precision):
    """On a CPU, Lightning itself takes bf16-mixed for 16-mixed."""
    trainer = SimpleNamespace(precision=precision)
    message = f"precision='{precision}' is not supported; accepted: 32-true, 64-true, bf16-mixed"
    with pytest.raises(ValueError, match=message):
        options.check(SimpleNamespace(trainer=trainer))
