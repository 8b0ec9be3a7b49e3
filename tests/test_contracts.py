"""Contracts that every public function and class keeps, whatever it computes.

Each check goes over the whole table of cases (`contracts.py`); a public name that is in no table fails the first test.
"""

import inspect
import random
import re
import traceback
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import numpy as np
import pytest
import torch

import gendae
from gendae.diagnostics import class_switches, signal_dimensions
from gendae.spec import REGISTRY
from tests.contracts import ROWS, flat, inputs_of, model_of, run
from tests.contracts_exempt import EXEMPT
from tests.contracts_layers import CASES as LAYERS
from tests.contracts_models import CASES as MODELS
from tests.contracts_models import DRAWS, joint_stack
from tests.contracts_sets import CASES as SETS

CASES = [*LAYERS, *MODELS, *SETS]
NUMERIC = [
    "corruption",
    "conditionals",
    "layers",
    "invertible",
    "optimized",
    "priors",
    "stack",
    "classifier",
    "modalities",
    "joint",
    "targets",
    "inference",
    "sampling",
    "clamping",
    "levels",
    "diagnostics",
    "inpainting",
    "completion",
    "metrics",
    "bounds",
    "neighbours",
    "quality",
    "credit",
    "models",
    "features",
]
PACKAGE = Path(gendae.__file__).parent
pytestmark = pytest.mark.filterwarnings("error")


def cases(check, *kinds):
    """Parameters: the cases of these kinds that are not let off the check."""
    chosen = [
        case
        for case in CASES
        if case.kind in (kinds or ("map", "reduce"))
        and check not in case.skips
        and (check != "finite" or case.finite)
    ]
    return pytest.mark.parametrize("case", chosen, ids=[case.id for case in chosen])


def close(found, expected, tolerance=1e-5):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


def refusal(call):
    """What the package says of an input that it refuses, or None: a ValueError of its own, in one line."""
    try:
        call()
    except ValueError as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        assert Path(place).is_relative_to(PACKAGE), f"not the package, but {place} says: {error}"
        assert str(error) and "\n" not in str(error)
        return str(error)
    return None


def rows_of(case, dtype=torch.float64):
    """Model and inputs. Equality up to rounding is looked for in float64, where rounding is small."""
    return model_of(case, dtype), inputs_of(case, dtype)


@cache
def whole_of(number, evenly):
    """The case's result of its whole batch, in float64."""
    return run(CASES[number], *rows_of(CASES[number]), evenly=evenly)


def whole(case, evenly=False):
    return whole_of(CASES.index(case), evenly)


# -- nothing is left out --------------------------------------------------------------------------------------------


def public():
    """module.name of all that is public: __all__, the registry, functions and classes of the numeric modules."""
    modules = [import_module(m.name) for m in walk_packages(gendae.__path__, "gendae.")]
    found = {getattr(gendae, name) for name in gendae.__all__} | set(REGISTRY.values())
    for module in modules:
        if module.__name__.split(".")[1] in NUMERIC:
            found |= {
                thing
                for name, thing in vars(module).items()
                if not name.startswith("_")
                and (inspect.isfunction(thing) or inspect.isclass(thing))
                and thing.__module__ == module.__name__
            }
    return {
        f"{thing.__module__.removeprefix('gendae.')}.{thing.__name__}"
        for thing in found
        if thing.__module__.startswith("gendae.")
    }


def covered():
    names = {case.covers for case in [*CASES, *DRAWS]}
    return {re.match(r"((?:priors\.|rules\.)?\w+\.\w+)", name)[1] for name in names}


def test_every_public_name_has_a_case_or_a_reason():
    missing = {
        name for name in public() - covered() - set(EXEMPT) if not name.startswith("rules.")
    }
    assert not missing, (
        f"no contract and no reason for {sorted(missing)}: see contracts.py and contracts_exempt.py"
    )


def test_the_tables_name_what_exists_once():
    assert (covered() | set(EXEMPT)) <= public()
    assert not covered() & set(EXEMPT)
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    assert all(reason for case in CASES for reason in case.skips.values()) and all(EXEMPT.values())


def test_the_tables_let_off_only_what_there_is():
    checks = {
        "independence",
        "order",
        "dtype",
        "float64",
        "strides",
        "one",
        "empty",
        "memmap",
        "random",
    }
    assert {check for case in CASES for check in case.skips} <= checks


# -- rows -------------------------------------------------------------------------------------------------------------


@cases("independence", "map")
def test_a_batch_is_its_parts(case):
    parts = []
    for rows in (slice(2), slice(2, None)):
        model, inputs = rows_of(case)
        parts.append(run(case, model, [x[rows] for x in inputs], evenly=True))
    close([torch.cat(pieces) for pieces in zip(*parts, strict=True)], whole(case, evenly=True))


@cases("order")
def test_the_order_of_a_batch(case):
    """Rows permuted: the rows of the result are permuted too, or a summary stays as it is."""
    model, inputs = rows_of(case)
    orders = {
        n: torch.randperm(n, generator=torch.Generator().manual_seed(5))
        for n in {len(x) for x in inputs}
    }
    found, first = (
        run(case, model, [x[orders[len(x)]] for x in inputs], evenly=True),
        whole(case, evenly=True),
    )
    close(found, [t[orders[len(inputs[0])]] for t in first] if case.kind == "map" else first)


@cases("one")
def test_a_batch_of_one(case):
    model, inputs = rows_of(case)
    one = [x[:1] for x in inputs]
    if case.kind == "map":
        close(run(case, model, one, evenly=True), [t[:1] for t in whole(case, evenly=True)])
    elif refusal(lambda: run(case, model, one)) is None:
        assert not any(
            torch.isnan(t).any()
            for t in run(case, model_of(case, torch.float64), one, evenly=True)
        )


@cases("empty")
def test_an_empty_batch(case):
    """No rows: an empty result of the right shape, or one clear ValueError; never a NaN."""
    inputs = inputs_of(case, torch.float64)
    together = case.kind == "map" or case.together
    for chosen in [range(len(inputs))] if together else [[i] for i in range(len(inputs))]:
        none = [x[:0] if i in chosen else x for i, x in enumerate(inputs)]
        found = []
        if (
            refusal(
                lambda none=none, found=found: found.extend(
                    run(case, model_of(case, torch.float64), none)
                )
            )
            is not None
        ):
            continue
        assert not any(t.is_floating_point() and torch.isnan(t).any() for t in found)
        if case.kind == "map":
            assert [(t.shape, t.dtype) for t in found] == [
                ((0, *t.shape[1:]), t.dtype) for t in whole(case)
            ]


# -- types and memory -------------------------------------------------------------------------------------------------


@cases("float64")
def test_both_precisions(case):
    single = run(case, *rows_of(case, torch.float32), evenly=True)
    double = whole(case, evenly=True)
    close(single, double, case.tolerance)
    if "dtype" not in case.skips and case.kind == "map":
        for dtype, found in ((torch.float32, single), (torch.float64, double)):
            assert {t.dtype for t in found if t.is_floating_point()} <= {dtype}


def strided(x):
    """The same values, laid out in other ways."""
    wide = x.repeat_interleave(2, -1) if x.ndim > 1 else x.repeat_interleave(2, 0)
    return [
        x.repeat_interleave(2, 0)[::2],
        wide[..., ::2],
        x.transpose(0, -1).contiguous().transpose(0, -1),
    ]


@cases("strides")
def test_memory_layout_does_not_matter(case):
    for views in zip(*map(strided, inputs_of(case, torch.float64)), strict=True):
        close(run(case, model_of(case, torch.float64), views), whole(case))


@cases("memmap")
def test_inputs_stay_as_they_are_and_may_be_read_only(case, tmp_path):
    model, inputs = rows_of(case, torch.float32)
    before = [x.clone() for x in inputs]
    found = run(case, model, inputs)
    assert all(
        torch.equal(a, b) for a, b in zip(inputs, before, strict=True)
    )  # else writing below would be a crash
    mapped = []
    for i, x in enumerate(inputs):
        x.numpy().tofile(tmp_path / f"{i}")
        with (
            warnings.catch_warnings()
        ):  # that it is not writable: here the test makes the tensor, not the package
            warnings.simplefilter("ignore")
            mapped.append(
                torch.from_numpy(
                    np.memmap(tmp_path / f"{i}", x.numpy().dtype, "r", shape=tuple(x.shape))
                )
            )
    close(run(case, model_of(case), mapped), found)
    assert all(
        (tmp_path / f"{i}").read_bytes() == x.numpy().tobytes() for i, x in enumerate(before)
    )


# -- randomness and bad values ------------------------------------------------------------------------------------------


def global_state():
    _, numbers, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers.tobytes(), rest


@cases("random")
def test_random_numbers_come_from_where_they_should(case):
    """The global generators are left alone; the same seed gives the same, another seed something else."""
    model, inputs = rows_of(case, torch.float32)
    torch.manual_seed(123)
    before = global_state()
    first = run(case, model, inputs)
    assert global_state() == before
    again, other = (run(case, model_of(case), inputs, seed) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    if case.random:
        assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@cases("finite")
def test_bad_values_are_refused(case, bad):
    for position in case.finite:
        model, inputs = rows_of(case)
        inputs[position].view(-1)[3] = bad
        assert refusal(lambda model=model, inputs=inputs: run(case, model, inputs)), (
            f"{bad} in input {position}"
        )


# -- n draws --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DRAWS, ids=lambda case: case.id)
def test_draws(case):
    """n draws are n rows, in the model's type; the generator alone decides which."""
    for dtype in (torch.float32, torch.float64):
        model = model_of(case, dtype)

        def draw(n, seed=0, model=model):
            return flat(case.call(model, n, torch.Generator().manual_seed(seed)))

        torch.manual_seed(123)
        before = global_state()
        first = draw(ROWS)
        assert global_state() == before
        assert all(len(t) == ROWS and t.dtype == dtype and torch.isfinite(t).all() for t in first)
        assert all(len(t) == 1 for t in draw(1))
        assert all(torch.equal(a, b) for a, b in zip(first, draw(ROWS), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(first, draw(ROWS, seed=1), strict=True))
        found = []
        if refusal(lambda found=found, draw=draw: found.extend(draw(0))) is None:
            assert [t.shape for t in found] == [(0, *t.shape[1:]) for t in first]


# -- arrays where tensors are expected --------------------------------------------------------------------------------------


ARRAYS = {
    "join": lambda a: joint_stack().join({"image": a}),
    "predict": lambda a: joint_stack().predict({"image": a}, "label"),
    "class_switches": lambda a: class_switches(a > 0.5),
    "signal_dimensions": lambda a: signal_dimensions(a[0] + 0.1),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_may_be_read_only_and_turned_around(name, tmp_path):
    """The package makes the tensor: no warning of torch about memory that must not be written to."""
    x = np.random.RandomState(0).rand(6, 8).astype(np.float32)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", x.dtype, "r", shape=x.shape)
    torch.manual_seed(0)
    whole = flat(ARRAYS[name](torch.from_numpy(x)))
    for other in (x, mapped, mapped[::-1][::-1], x[:, ::-1][:, ::-1], np.asfortranarray(x)):
        torch.manual_seed(0)
        close(flat(ARRAYS[name](other)), whole)
    torch.manual_seed(0)
    turned = flat(ARRAYS[name](mapped[::-1, ::-1]))
    torch.manual_seed(0)
    close(turned, flat(ARRAYS[name](torch.from_numpy(x).flip(0, 1))))
