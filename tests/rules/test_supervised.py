"""What the supervised baselines share: learning, seeds, checkpoints and refusals."""

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import seed_everything

import gendae
from gendae.data.images import Digits
from gendae.layers.affine import Affine
from gendae.layers.mlp import MLP
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_classifier
from gendae.models.classifier import Classifier
from gendae.rules.backprop import BackpropRule, FeedbackAlignmentRule, StraightThroughRule
from gendae.rules.equilibrium import EquilibriumPropagationRule
from gendae.rules.hebbian import ContrastiveHebbianRule, GeneRecRule
from gendae.rules.moment import Moment
from gendae.rules.nudged_stdp import NudgedSTDPRule
from gendae.rules.predictive_coding import PredictiveCodingRule
from gendae.rules.rates import Rates
from tests.rules.test_base import trainer

BASELINES = (
    BackpropRule,
    StraightThroughRule,
    FeedbackAlignmentRule,
    GeneRecRule,
    ContrastiveHebbianRule,
    NudgedSTDPRule,
    EquilibriumPropagationRule,
    PredictiveCodingRule,
)
TWO_PHASES = (GeneRecRule, ContrastiveHebbianRule)
#: s'(a) from h = s(a).
SLOPES = {
    "tanh": lambda h: 1 - h**2,
    "sigmoid": lambda h: h * (1 - h),
    "softplus": lambda h: 1 - torch.exp(-h),
}
rules = pytest.mark.parametrize("rule", BASELINES, ids=lambda rule: rule.__name__)


def network(sizes=(7, 6, 5), activation=None, **options):
    """A float64 classifier of 4 classes with non-zero biases."""
    stack = deep_classifier(list(sizes), 4, activation, **options).double()
    with torch.no_grad():
        for f in stack.encoders:
            f.bias.normal_(0.0, 0.3)

    return stack


def batch(n=12, width=7):
    return torch.rand(n, width, dtype=torch.float64) * 2 - 1, torch.randint(4, (n,))


def gradients(rule, data, moment=Moment()):
    """(dW_l, db_l) for l = 1 .. M; None where there is none."""
    rule.zero_grad(set_to_none=True)
    sum(rule.losses(data, moment).values()).backward()
    return [(f.weight.grad, f.bias.grad) for f in rule.stack.encoders]


def true_gradients(stack, data):
    """Autograd of the cross-entropy of a network written out here."""
    h, y = data
    for f in stack.encoders[:-1]:
        h = getattr(F, f.activation, getattr(torch, f.activation, None))(h @ f.weight.T + f.bias)

    loss = F.cross_entropy(h @ stack.output.weight.T + stack.output.bias, y)
    parameters = [p for f in stack.encoders for p in (f.weight, f.bias)]
    grads = torch.autograd.grad(loss, parameters)

    return list(zip(grads[::2], grads[1::2], strict=True))


def cosine(a, b):
    return torch.cosine_similarity(a.flatten(), b.flatten(), 0).item()


def random_feedback(stack):
    return [FeedbackAlignmentRule(stack), *(rule(stack, symmetric=False) for rule in TWO_PHASES)]


def fitted(rule, seed=0, epochs=10, **options):
    seed_everything(seed, verbose=False)
    r = rule(deep_classifier([64, 40, 40]), rates=Rates(f=1e-2), **options)
    run = trainer(max_epochs=epochs)
    run.fit(r, Digits(batch_size=50))

    return r, run


# -- learning ------------------------------------------------------------------------------------


@rules
def test_learns_digits(rule, tmp_path, digits):
    r, run = fitted(rule)
    metrics = run.callback_metrics
    assert metrics["val/error"] < 0.08

    split = digits.split("valid")
    p = r.stack.predict(split.x)
    error = (p.argmax(1) != split.y).float().mean().item()
    loss = F.nll_loss(p.log(), split.y).item()

    assert metrics["val/error"].item() == pytest.approx(error)
    assert metrics["val/loss"].item() == pytest.approx(loss, rel=1e-4)

    if rule in TWO_PHASES:
        assert metrics["val/residual"] < 0.1

    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = gendae.load(tmp_path / "run.ckpt")
    assert torch.equal(loaded.predict(split.x), p)
    assert loaded.facts["rule"] == rule.__name__


# -- random feedback -----------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(3))
def test_feedback_weights_follow_the_seed_and_the_type_of_the_stack(index):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        rule = random_feedback(network())[index]
        drawn.append({k: v for k, v in rule.state_dict().items() if k.startswith("feedback")})

    one, same, other = drawn
    assert sorted(one) == ["feedback_2", "feedback_3"]
    assert all(v.dtype == torch.float64 for v in one.values())

    for name, weight in one.items():
        assert torch.equal(weight, same[name])
        assert not torch.equal(weight, other[name])


# -- what learns ---------------------------------------------------------------------------------


def with_hidden_layers():
    pair = Pair(MLP(7, [9], 6, "tanh"), Affine(6, 7))
    top = Pair(Affine(6, 5, "tanh"), Affine(5, 6))
    return Classifier(pair, top, output=Affine(5, 4)).double()


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        *((rule, network) for rule in BASELINES),
        *((rule, with_hidden_layers) for rule in (BackpropRule, StraightThroughRule)),
    ],
)
def test_encoders_learn_each_at_its_own_rate_and_decoders_do_not(rule, made):
    stack = made()
    r = rule(stack, rates=Rates(f=[0.1, 0.2, 0.3]))
    sum(r.losses(batch()).values()).backward()

    groups = r.configure_optimizers().param_groups
    assert [group["lr"] for group in groups][:3] == [0.1, 0.2, 0.3]
    assert all(p.grad.abs().sum() > 0 for f in stack.encoders for p in f.parameters())
    assert all(p.grad is None for pair in stack.pairs for p in pair.g.parameters())
