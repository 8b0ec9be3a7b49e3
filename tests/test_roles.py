"""What all members of a role keep, whatever they compute; the members stand in `roles.py`."""

import copy
import inspect
import json
import math
import pickle
import random
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import gendae
from gendae.metrics.neighbours import authenticity, data_copying, precision_recall_density_coverage
from gendae.metrics.parzen import choose_sigma
from gendae.metrics.quality import frechet_distance, kernel_distance
from gendae.models.settings import Settings
from gendae.registry import REGISTRY, build, describe
from tests import roles
from tests.conftest import at
from tests.roles import ROWS, Member, rows

PACKAGE = Path(gendae.__file__).parent
pytestmark = pytest.mark.filterwarnings("error")


def over(members):
    return pytest.mark.parametrize("member", members, ids=lambda member: member.name)


def flat(value):
    """All tensors and numbers in a result."""
    if isinstance(value, float):
        value = torch.tensor(value, dtype=torch.float64)
    if isinstance(value, torch.Tensor):
        return [value.detach()]
    if isinstance(value, dict):
        value = value.values()

    return [tensor for part in value for tensor in flat(part)]


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def close(first, second, tolerance=1e-9):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


def refusal(call, *arguments):
    """What the package says, in one line, of arguments that it refuses; "" where it does not."""
    try:
        call(*arguments)
    except ValueError as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        assert Path(place).is_relative_to(PACKAGE), f"not the package, but {place} says: {error}"
        assert str(error)
        assert "\n" not in str(error)
        return str(error)

    return ""


def strided(x):
    """The same values, with room between rows and between columns, and transposed."""
    return [
        x.repeat_interleave(2, 0)[::2],
        x.repeat_interleave(2, -1)[..., ::2],
        x.transpose(0, -1).contiguous().transpose(0, -1),
    ]


def global_state():
    _, numbers, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers.tobytes(), rest


# -- objects: described, built, refused, copied -------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """Data files of some members, in the current folder."""
    numbers = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("files"))
        np.save("images.npy", numbers.random((40, 4, 4), np.float32))
        np.savez("walks.npz", x=numbers.random((40, 4, 2)), lengths=1 + np.arange(40) % 4)
        Path("song.txt").write_text("la la lu " * 30, encoding="utf-8")
        np.save("numbers.npy", numbers.normal(size=(40, 3)))
        yield


def test_every_class_has_a_role():
    """A new class is one line in the list of its role in roles.py."""
    public = {getattr(gendae, name) for name in gendae.__all__} | set(REGISTRY.values())
    classes = {c for c in public if inspect.isclass(c) and c.__module__.startswith("gendae.")}
    members = {type(member.built()) for member in roles.EVERYTHING}

    bases = {gendae.Corruption, gendae.Law, gendae.Prior, gendae.Inference, gendae.Sampler}
    bases |= {gendae.Data, gendae.Rule, gendae.Loop, gendae.Feedback, gendae.Picture}
    bases |= {gendae.Levels, gendae.Descent, gendae.Criterion, gendae.Layout}
    bases |= {gendae.Plasticity, gendae.SupervisedRule}
    plain = {gendae.Facts, gendae.Moment, gendae.Split}
    plain |= {gendae.Activity, gendae.DelayNetwork, gendae.SymmetricDelayNetwork}

    # one is among the scores below, some are callbacks; scikit-learn has tests of its estimators
    others = {gendae.ParzenLogLikelihood, gendae.Graphs, gendae.Pictures}
    others |= {gendae.ParzenMonitor, gendae.CreditMonitor}
    others |= {gendae.StackedDAE, gendae.DAEImputer}
    others |= {gendae.TargetPropClassifier, gendae.ParzenDensity}
    assert classes - members == bases | plain | others


def described(member):
    """By way of JSON."""
    return json.loads(json.dumps(describe(member.built()), allow_nan=False))


@over(roles.EVERYTHING)
def test_a_description_builds_the_same(member):
    """A number that is given instead of a default stands in the description, too."""
    data = described(member)
    assert describe(build(data)) == data

    others = {bool: lambda value: not value, int: lambda n: n + 1, float: lambda x: 1.5 * x + 0.1}
    for name, value in data.items():
        if type(value) in others:
            changed = data | {name: others[type(value)](value)}
            if not refusal(build, changed):
                assert describe(build(changed))[name] == changed[name]


#: Arguments that are checked under another name, or where they are used.
CHECKED_ELSEWHERE = {
    *("gain", "given", "level", "seed", "split_seed", "path", "root", "codes_of"),
    *("visible", "hidden_activation", "name"),
}


@over(roles.EVERYTHING)
def test_a_bad_argument_is_refused_by_its_name(member):
    data = described(member)
    bad = {int: -1, float: math.nan, str: "nope"}

    for name in data.keys() - CHECKED_ELSEWHERE - {"type"}:
        if type(data[name]) in bad:
            assert name in refusal(build, data | {name: bad[type(data[name])]}), name


def by_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


@over(roles.EVERYTHING)
@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle])
def test_a_copy_is_the_same_and_stands_alone(member, copied):
    """What it computes follows its own parameters, and the original does not."""
    thing = member.built()
    other = copied(thing)
    assert describe(other) == describe(thing)
    if not isinstance(thing, nn.Module):
        return

    calls = [call for call in CALLS if call.member is member]
    before = [call.on(thing) for call in calls]
    assert all(map(same, before, [call.on(other) for call in calls]))

    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    assert all(map(same, before, [call.on(thing) for call in calls]))
    if list(other.parameters()) and member not in roles.LAWS:
        assert not any(map(same, before, [call.on(other) for call in calls]))


# -- calls on rows ----------------------------------------------------------------------------


class Call(NamedTuple):
    """Something that a member of a role does with rows: do(object, generator, *rows)."""

    member: Member
    name: str
    do: Callable

    @property
    def draws(self):
        """Whether the result is random."""
        if self.member.draws is not None:
            return self.name in self.member.draws.split()

        return self.name in ("draw", "sample", "chain", "complete", "joint")

    def on(self, thing, batch=None, seed=0):
        if batch is None:
            batch = self.member.batch()

        return flat(self.do(thing, torch.Generator().manual_seed(seed), *batch))

    def result(self, batch=None, seed=0):
        return self.on(self.member.built(), batch, seed)


def calls(members, **named):
    return [Call(member, name, do) for member in members for name, do in named.items()]


@cache
def model_of(make, dtype=torch.float64):
    torch.manual_seed(0)
    return make().to(dtype)


def infer(method, g, x, mask=None):
    return method(model_of(roles.stack, x.dtype), x, mask, g)


def complete(method, g, x, mask):
    return method(model_of(roles.stack, x.dtype), x, mask, None, g).h


def complete_codes(method, g, codes, mask):
    joint = model_of(roles.joint_stack, codes.dtype)
    observed = mask[:, :2]  # one element for each modality
    return method(joint, codes, joint.spread(observed, 1), observed, g).h


CALLS = [
    *calls(roles.CORRUPTIONS, draw=lambda noise, g, h: noise(h, 0.5, g)),
    *calls(
        roles.LAWS,
        energy=lambda law, g, h, mean, x: law.energy(h, mean, x),
        log_prob=lambda law, g, h, mean, x: law.log_prob(h, mean, x),
        entropy=lambda law, g, h, mean, x: law.entropy(mean, x),
        sample=lambda law, g, h, mean, x: law.sample(mean, g, x),
        transmit=lambda law, g, h, mean, x: law.transmit(mean, g),
    ),
    *calls(roles.LAYERS, forward=lambda f, g, h: f(h)),
    *calls(
        roles.PAIRS,
        encode=lambda pair, g, x: pair.encode(x, g),
        decode=lambda pair, g, x: pair.decode(pair.encode(x, g), g),
    ),
    *calls(
        roles.STACKS,
        encode=lambda stack, g, x: stack.encode(x)[1:],
        reconstruct=lambda stack, g, x: stack.reconstruct(x),
        sample=lambda stack, g, x: stack.sample_q(x, g),
    ),
    *calls(
        roles.CLASSIFIERS,
        logits=lambda network, g, x: network(x, 1, g)[0],
        log_p=lambda network, g, x: network.log_probability(x, 3, g),
    ),
    *calls(
        roles.DENSE,
        log_prob=lambda prior, g, h: prior.log_prob(h),
        score=lambda prior, g, h: prior.score(h),
        cross_entropy=lambda prior, g, h: prior.cross_entropy(h, h, h.square()),
    ),
    *calls(roles.PRIORS, reconstruct=lambda prior, g, h: prior.reconstruct(h)),
    *calls(roles.CHAINED, chain=lambda prior, g, h: prior.chain(h, 2, g).transpose(0, 1)),
    *calls(roles.INFERENCES, infer=lambda method, g, x, mask: infer(method, g, x), masked=infer),
    *calls(roles.COMPLETERS, complete=complete),
    *calls(roles.COMPLETERS[:3], joint=complete_codes),
]
every_call = pytest.mark.parametrize("call", CALLS, ids=lambda c: f"{c.member.name} {c.name}")


@every_call
def test_a_result_has_rows_and_the_type_of_the_input(call):
    """In float64 it has digits that float32 does not hold; the first digits are the same."""
    results = []
    for dtype in (torch.float32, torch.float64):
        results.append(call.on(call.member.built(dtype), call.member.batch(dtype=dtype)))
        for tensor in results[-1]:
            assert len(tensor) == ROWS
            assert tensor.dtype == dtype
            assert torch.isfinite(tensor).all()

    single, double = results
    if not call.draws:
        close(single, double, 1e-2)
    whole = same(double, [tensor.half().double() for tensor in double])
    if not whole and call.member not in roles.PRIORS:  # whose numbers are fitted in float32
        assert not same(double, [tensor.float().double() for tensor in double])


@every_call
def test_a_row_does_not_look_at_the_others(call):
    if call.member.of_batch:
        return

    batch = [torch.cat([x[:-1], x[:1]]) for x in call.member.batch()]
    close([t[:-1] for t in call.result(batch)], [t[:-1] for t in call.result()])


@every_call
def test_batches_of_one_and_of_none(call):
    """No row gives an empty result, or one clear error; never a NaN."""
    whole = call.result()
    one = call.result(call.member.batch(1))
    assert all(torch.isfinite(tensor).all() for tensor in one)
    if not call.draws:
        close(one, [tensor[:1] for tensor in whole])

    none = []
    if not refusal(lambda: none.extend(call.result(call.member.batch(0)))):
        assert [t.shape for t in none] == [(0, *t.shape[1:]) for t in whole]


@every_call
def test_inputs_stay_as_they_are_in_any_layout(call):
    batch = call.member.batch()
    whole = call.result(batch)
    assert same(batch, call.member.batch())

    for views in zip(*map(strided, batch), strict=True):
        close(call.result(views), whole)


@every_call
def test_random_numbers_come_from_the_generator(call):
    """The global ones are left alone; another seed gives another result where one is drawn."""
    first = call.result()
    assert same(first, call.result())
    assert same(first, call.result(seed=1)) != call.draws

    thing = call.member.built()
    before = global_state()
    call.on(thing)
    assert global_state() == before


DRAWS = [
    *calls(roles.PRIORS, prior=lambda prior, g, n: prior.sample(n, g)),
    *calls(roles.SAMPLERS, stack=lambda s, g, n: s(model_of(roles.stack), n, g)),
    *calls(roles.LABEL_SAMPLERS, stack=lambda s, g, n: s(model_of(roles.labelled_stack), n, g)),
    *calls(roles.BAND_SAMPLERS, stack=lambda s, g, n: s(model_of(roles.bands), n, g)),
    *calls(roles.SAMPLERS[:4], joint=lambda s, g, n: s(model_of(roles.joint_stack), n, g)),
]


@pytest.mark.parametrize("call", DRAWS, ids=lambda c: f"{c.member.name} {c.name}")
def test_draws(call):
    """n draws are n rows, in the model's type; the generator alone decides which."""
    first = call.result([ROWS])
    for tensor in first:
        assert len(tensor) == ROWS
        assert tensor.dtype == torch.float64
        assert torch.isfinite(tensor).all()
    assert same(first, call.result([ROWS]))
    assert not same(first, call.result([ROWS], seed=1))

    thing = call.member.built()
    before = global_state()
    assert all(len(tensor) == 1 for tensor in call.on(thing, [1]))
    assert global_state() == before


# -- what looks at sets: fits of priors, scores, rules, data ------------------------------------


@over(roles.PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prior_fits_codes_in_their_type_or_refuses_them(member, dtype):
    prior = member.built(dtype)
    codes = rows(member.takes, 60, dtype)
    torch.manual_seed(123)  # the fit in `built` may have left another seed's state
    before = global_state()
    roles.fit(prior, codes)
    assert global_state() == before
    assert torch.equal(codes, rows(member.takes, 60, dtype))
    assert {b.dtype for b in prior.buffers() if b.is_floating_point()} <= {dtype}

    nan = codes.index_fill(0, torch.tensor(3), math.nan)
    for bad in (codes[:0], codes[:1], nan):
        assert "codes" in refusal(roles.fit, prior, bad)


def likelihood(samples, x):
    metric = gendae.ParzenLogLikelihood(samples, sigma=0.3)
    metric.update(x)
    return metric.compute()


def copying(samples, x):
    return data_copying(x[:30], x[30:], samples, cells=1)


SCORES = [likelihood, choose_sigma, copying, frechet_distance, kernel_distance]
SCORES += [precision_recall_density_coverage, authenticity]


@pytest.mark.parametrize("score", SCORES)
def test_a_score_of_sets(score):
    """It leaves its inputs alone, takes any layout and type, and refuses what is no set."""
    a = rows("unit", 40)
    b = rows("unit", 60, first=40)
    before = global_state()
    value = flat(score(a, b))
    assert global_state() == before
    assert torch.equal(a, rows("unit", 40))
    assert all(torch.isfinite(number).all() for number in value)

    close(flat(score(a.float(), b.float())), value, 1e-3)
    for views in zip(strided(a), strided(b), strict=True):
        close(flat(score(*views)), value, 1e-7)

    nan = a.index_fill(0, torch.tensor(3), math.nan)
    for bad in ((nan, b), (b, nan), (a[:0], b), (a[:, 1:], b)):
        assert refusal(score, *bad)


@over(roles.RULES)
@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_a_rule(member, n, dtype):
    """Losses in the stack's type; a loop that changes weights; an empty batch is refused."""
    rule = member.built(dtype)
    if n == 0:
        assert refusal(rule.losses, member.batch(n, dtype), at())
        return

    losses = rule.losses(member.batch(n, dtype), at())
    assert {(loss.shape, loss.dtype) for loss in losses.values()} == {((), dtype)}

    before = [p.detach().clone() for p in rule.parameters()]
    optimizer = rule.configure_optimizers()
    for _ in range(3):
        optimizer.zero_grad()
        sum(rule.losses(member.batch(n, dtype)).values()).backward()
        optimizer.step()

    assert all(torch.isfinite(p).all() for p in rule.parameters())
    assert not same(before, [p.detach() for p in rule.parameters()])


@over(roles.RULES)
@pytest.mark.parametrize("moment", [{}, {"progress": 0.6, "update": 9}], ids=["alone", "fitting"])
def test_losses_change_nothing_but_the_generator_of_the_moment(member, moment):
    """Neither x, nor weights, nor the rule's objects, nor global generators; seeds alone count."""
    rule = member.built()
    attributes = dict(vars(rule))
    weights = {name: value.clone() for name, value in rule.state_dict().items()}
    described = describe(rule)
    settings = rule.stack.settings
    random = global_state()
    batch = member.batch()

    losses = flat(rule.losses(batch, at(**moment)))

    assert global_state() == random
    assert same(batch, member.batch())
    assert all(torch.equal(value, weights[name]) for name, value in rule.state_dict().items())
    assert all(parameter.grad is None for parameter in rule.parameters())
    assert vars(rule) == attributes
    assert describe(rule) == described
    assert rule.stack.settings is settings
    assert rule.prior_fit.recent is None

    assert same(losses, flat(rule.losses(batch, at(**moment))))
    assert same(losses, flat(member.built().losses(batch, at(**moment))))
    for views in zip(*map(strided, batch), strict=True):
        close(flat(member.built().losses(views, at(**moment))), losses)


@over(roles.RULES)
def test_a_rule_fills_what_is_unset_in_the_settings_and_nothing_else(member):
    """A second rule over a stack keeps what the first, or the user, has chosen."""
    rule = member.built()
    first = rule.stack.settings
    assert first == rule.DEFAULT_SETTINGS

    other = gendae.VariationalEMRule if rule.generative else gendae.StraightThroughRule
    if rule.generative and rule.stack.hard_levels:
        other = gendae.KLRule
    if rule.learns_label:
        other = gendae.LabelledEMRule
    other(rule.stack)
    assert all(getattr(rule.stack.settings, name) is own for name, own in first.chosen().items())

    own = {"sampler": gendae.LevelSampler(1, 2), "samples": 7}
    rule.stack.settings = Settings(**own)
    type(rule)(rule.stack)
    assert rule.stack.settings.chosen() == {**rule.DEFAULT_SETTINGS.chosen(), **own}


@over(roles.DATA)
def test_data_are_a_function_of_their_description(member):
    data = member.built()
    again = build(describe(data))
    for name in ("train", "valid", "test"):
        split = data.split(name)
        assert len(split.x) > 0
        assert torch.isfinite(split.x).all()
        assert split.x.dtype == torch.float32
        assert split.y is None or len(split.y) == len(split.x)
        assert torch.equal(split.x, again.split(name).x)

    assert "split" in refusal(data.split, "nope")
    for loader in ("train_dataloader", "val_dataloader"):
        first, second = (torch.cat([b[0] for b in getattr(d, loader)()]) for d in (data, again))
        assert torch.equal(first, second)
