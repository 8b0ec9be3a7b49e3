"""Contracts of learning rules: one step of each on batches of any size, layout and precision."""

import pytest
import torch

from gendae.rules import Rule
from gendae.spec import REGISTRY
from tests.contracts import same_noise
from tests.contracts_rules import RULES
from tests.test_contracts import close, global_state, refusal, strided

rules = pytest.mark.parametrize("case", RULES, ids=lambda case: case.id)
pytestmark = pytest.mark.filterwarnings("error")


def losses(case, batch, dtype=torch.float64, evenly=False):
    rule = case.built(dtype)
    if not evenly:
        return rule.losses(batch)
    with same_noise():
        return rule.losses(batch)


def test_every_rule_is_here():
    assert {case.rule for case in RULES} == {
        cls
        for cls in REGISTRY.values()
        if issubclass(cls, Rule) and cls.__module__.startswith("gendae.")
    }


@rules
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_step(case, n, dtype):
    """Finite losses in the stack's type, finite gradients, a step that changes weights and keeps them finite."""
    rule, batch = case.built(dtype), case.batch(n, dtype)
    found = rule.losses(batch)
    assert all(
        loss.shape == () and loss.dtype == dtype and torch.isfinite(loss)
        for loss in found.values()
    )
    before = [p.detach().clone() for p in rule.parameters()]
    optimizer = rule.configure_optimizers()
    sum(found.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in rule.parameters())
    assert any(not torch.equal(p, old) for p, old in zip(rule.parameters(), before, strict=True))


@pytest.mark.parametrize("case", [case for case in RULES if case.local], ids=lambda case: case.id)
def test_a_local_loss_reaches_its_own_layer_only(case):
    """term_l moves layer l, term_f_l its encoder and term_g_l its decoder; a junction's loss the top of a joint stack."""
    rule = case.built()
    stack, parameters = rule.stack, list(rule.named_parameters())
    for name, loss in rule.losses(case.batch(5)).items():
        gradients = torch.autograd.grad(
            loss, [p for _, p in parameters], retain_graph=True, allow_unused=True
        )
        reached = {
            key
            for (key, _), g in zip(parameters, gradients, strict=True)
            if g is not None and g.abs().max() > 0
        }
        *term, level = name.split("_")
        home = "stack.output." if int(level) > stack.depth else f"stack.pairs.{int(level) - 1}."
        direction = term[-1] if term[-1] in "fg" and home != "stack.output." else ""
        own = {"f": ("f", "recognition"), "g": ("g", "observation")}.get(direction, ("",))
        tied = (
            direction == "g"
            and any(key == f"{home}f.weight" for key in reached)
            and f"{home}g.weight" not in dict(parameters)
        )
        allowed = tuple(home + part for part in own) + ((f"{home}f.weight",) if tied else ())
        assert reached, name
        assert all(key.startswith(allowed) for key in reached), (name, reached)


@rules
def test_losses_change_nothing_but_their_own_generator(case):
    """Neither x, nor weights and their gradients, nor the global generators; and the same seed gives the same."""
    rule, batch = case.built(), case.batch(5)
    copies, weights = (
        [x.clone() for x in batch],
        {k: v.clone() for k, v in rule.state_dict().items()},
    )
    before = global_state()
    first = rule.losses(batch)
    assert global_state() == before
    assert all(torch.equal(a, b) for a, b in zip(batch, copies, strict=True))
    assert all(torch.equal(v, weights[k]) for k, v in rule.state_dict().items())
    assert all(p.grad is None for p in rule.parameters())
    again = losses(case, batch)
    assert list(first) == list(again) and all(
        torch.equal(first[name], again[name]) for name in first
    )


@rules
def test_losses_do_not_depend_on_order_and_layout(case):
    batch = case.batch(6)
    whole = list(losses(case, batch, evenly=True).values())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for other in ([x[order] for x in batch], *zip(*map(strided, batch), strict=False)):
        close(list(losses(case, list(other), evenly=True).values()), whole)


@rules
def test_losses_in_both_precisions(case):
    single = losses(case, case.batch(6, torch.float32), torch.float32, evenly=True)
    double = losses(case, case.batch(6), evenly=True)
    assert list(single) == list(double)
    close(
        list(single.values()),
        list(double.values()),
        1e-2 if "alpha" in vars(case.built()) else 2e-3,
    )


@rules
def test_an_empty_batch_is_refused(case):
    """A mean over no example would be NaN, and stop the training as if it had diverged."""
    assert refusal(lambda: losses(case, case.batch(0)))
