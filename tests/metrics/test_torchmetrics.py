"""What torchmetrics asks of its own metrics, in its MetricTester, asked of gendae's."""

import importlib
import pickle
import pkgutil
from dataclasses import dataclass

import pytest
import torch
from torch.multiprocessing import get_context
from torchmetrics import Metric

import gendae.metrics
from gendae.metrics.parzen import ParzenLogLikelihood
from gendae.priors.parzen import parzen_log_prob

SAMPLES = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
DATA = torch.rand(4, 6, 4, generator=torch.Generator().manual_seed(1))  # batches


@dataclass
class Case:
    """A metric, how it is made, and its value of all rows as a function."""

    cls: type[Metric]
    arguments: dict
    value: object

    def make(self, **options):
        return self.cls(**self.arguments, **options)


CASES = {
    "ParzenLogLikelihood": Case(
        ParzenLogLikelihood,
        {"samples": SAMPLES, "sigma": 0.3},
        lambda x: parzen_log_prob(x, SAMPLES.to(x), 0.3).mean(),
    ),
    "bandwidth chosen": Case(
        ParzenLogLikelihood,
        {"samples": SAMPLES, "validation": DATA[0], "grid": [0.2, 0.3]},
        lambda x: parzen_log_prob(
            x, SAMPLES.to(x), ParzenLogLikelihood(SAMPLES, None, DATA[0], [0.2, 0.3]).sigma
        ).mean(),
    ),
}

of_each_metric = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_metric_has_a_case():
    modules = [
        importlib.import_module(f"gendae.metrics.{m.name}")
        for m in pkgutil.iter_modules(gendae.metrics.__path__)
    ]
    ours = {
        thing
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Metric)
        and thing.__module__.startswith("gendae")
    }
    assert ours == {case.cls for case in CASES.values()}


@of_each_metric
def test_forward_gives_a_batch_s_value_and_compute_that_of_all(case):
    other_way = type("Other", (case.cls,), {"full_state_update": not case.cls.full_state_update})
    for metric in (case.make(), other_way(**case.arguments)):
        for x in DATA:
            assert torch.allclose(metric(x), case.value(x))

        assert torch.allclose(metric.compute(), case.value(DATA.flatten(0, 1)))


@of_each_metric
def test_it_is_pickled_cloned_hashed_and_reset(case):
    metric = case.make()
    metric.update(DATA[0])

    for same in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert torch.equal(same.compute(), metric.compute())
        same.update(DATA[1])
        assert not torch.equal(same.compute(), metric.compute())

    assert isinstance(hash(metric), int)
    assert metric.metric_state.keys() == case.make().metric_state.keys()

    metric.reset()
    metric.update(DATA[1])
    assert torch.allclose(metric.compute(), case.value(DATA[1]))


@of_each_metric
def test_attributes_that_say_what_a_metric_is_are_fixed(case):
    metric = case.make()
    for name in ("is_differentiable", "higher_is_better"):
        assert isinstance(getattr(metric, name), bool)
        with pytest.raises(RuntimeError, match="const"):
            setattr(metric, name, None)


@of_each_metric
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_it_moves_between_types(case, dtype):
    metric = case.make()
    metric.to("cpu").double().float().half()  # torchmetrics moves its states by set_dtype alone
    assert metric.total.dtype == torch.float64

    x = DATA.flatten(0, 1).to(dtype)
    metric.set_dtype(dtype)
    metric.update(x)

    tolerance = max(1e-5, 4 * torch.finfo(dtype).eps)
    expected = case.value(DATA.flatten(0, 1))
    assert torch.allclose(metric.compute().double(), expected, rtol=tolerance, atol=20 * tolerance)


@of_each_metric
def test_whether_it_is_differentiable_is_said_honestly(case):
    metric = case.make()
    x = DATA[0].double().requires_grad_()

    assert metric(x).requires_grad == metric.is_differentiable
    if metric.is_differentiable:
        (gradient,) = torch.autograd.grad(metric(x), x)
        step = 1e-3 * torch.randn(x.shape, dtype=x.dtype)
        difference = (case.value(x + step) - case.value(x - step)).item() / 2
        assert difference == pytest.approx((gradient * step).sum().item(), rel=1e-3)


@of_each_metric
def test_a_metric_plots_its_values(case):
    metric = case.make()
    values = [metric(x) for x in DATA]
    metric.plot()
    _, axes = metric.plot(values)

    assert axes.lines[0].get_ydata() == pytest.approx([value.item() for value in values])


def rank_of_two(case, rank, place, results):
    """One of two processes, with its share of uneven batches."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}", rank=rank, world_size=2
    )
    metric = case.make()
    on_step = case.make(dist_sync_on_step=True)

    batches = [x[: 3 + rank] for x in DATA[rank::2]]
    steps = [on_step(x).item() for x in batches]
    for x in batches:
        metric.update(x)

    value = metric.compute().item()
    own = metric.metric_state["count"].item()  # unsynchronised again
    results.put((rank, value, steps, own, on_step.compute().item()))
    torch.distributed.destroy_process_group()


@of_each_metric
def test_two_processes_give_the_value_of_all_rows(case, tmp_path):
    context = get_context("fork")
    results = context.SimpleQueue()
    arguments = [(case, rank, tmp_path / "meet", results) for rank in range(2)]
    ranks = [context.Process(target=rank_of_two, args=each) for each in arguments]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]

    shares = [[x[: 3 + rank] for x in DATA[rank::2]] for rank in range(2)]
    whole = case.value(torch.cat([*shares[0], *shares[1]])).item()
    steps = [case.value(torch.cat(pair)).item() for pair in zip(*shares, strict=True)]

    for rank, value, of_steps, own, again in sorted(results.get() for _ in ranks):
        assert value == pytest.approx(whole)
        assert again == pytest.approx(whole)
        assert of_steps == pytest.approx(steps)
        assert own == sum(map(len, shares[rank]))
