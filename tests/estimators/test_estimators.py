"""Estimators: exact densities, units of features, labels, missing cells, and good manners."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline

from gendae.estimators import DAEImputer, ParzenDensity, StackedDAE, TargetPropClassifier
from gendae.rules.ledger import TrainingDiverged

QUICK = {"epochs": 3, "random_state": 0}


@pytest.fixture(scope="module")
def pixels():
    x, y = load_digits(return_X_y=True)
    some = np.random.RandomState(0).permutation(len(x))[:600]
    return x[some] / 16, y[some]


@pytest.fixture(scope="module")
def table():
    """Four features of other ranges, three of which follow from the first."""
    draw = np.random.RandomState(0)
    x = draw.normal(size=(300, 1)) * [1.0, -3.0, 200.0, 0.01] + [0.0, 5.0, 1e3, 0.0]
    return x + draw.normal(size=x.shape) * [0.1, 0.3, 20.0, 0.001]


def hidden(x, share=0.3, seed=1):
    mask = np.random.RandomState(seed).rand(*x.shape) < share
    return np.where(mask, np.nan, x), mask


# -- ParzenDensity ------------------------------------------------------------------------------


@pytest.mark.parametrize("bandwidth", [0.2, 1.5, "scott", "silverman"])
def test_parzen_density_is_kernel_density(bandwidth):
    """One leaf makes a tree exact: with more, its bounds lose all digits at 784 features."""
    draw = np.random.RandomState(0)
    x = draw.rand(200, 784)
    test = np.concatenate([draw.rand(50, 784), x[:5], 3 + draw.rand(5, 784)])

    ours = ParzenDensity(bandwidth).fit(x)
    theirs = KernelDensity(bandwidth=bandwidth, leaf_size=len(x)).fit(x)

    log_p = theirs.score_samples(test)
    np.testing.assert_allclose(ours.score_samples(test), log_p, rtol=1e-12, atol=1e-9)
    assert ours.bandwidth_ == pytest.approx(theirs.bandwidth_, rel=1e-15)
    assert ours.score(test) == pytest.approx(theirs.score(test), rel=1e-12)
    assert np.array_equal(ours.sample(7, random_state=3), theirs.sample(7, random_state=3))


def test_parzen_density_of_one_row_is_a_gaussian():
    log_p = ParzenDensity(2.0).fit([[1.0, 2.0]]).score_samples([[1.0, 2.0], [3.0, 2.0]])
    top = -2 * np.log(2.0 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(log_p, [top, top - 0.5], rtol=1e-14)


# -- StackedDAE ---------------------------------------------------------------------------------


def test_density_of_a_stack_is_a_window_around_its_samples(pixels):
    x, _ = pixels
    model = StackedDAE((30, 8), **QUICK).fit(x)
    windows = ParzenDensity(model.bandwidth_).fit(model.sample(2000))

    np.testing.assert_allclose(model.score_samples(x), windows.score_samples(x), atol=1e-4)
    assert model.score(x) == pytest.approx(model.score_samples(x).mean())


def test_density_is_in_the_units_of_the_features(table):
    model = StackedDAE((8, 2), **QUICK).fit(table)
    scaled = StackedDAE((8, 2), **QUICK).fit(4.0 * table)

    moved = model.score_samples(table) - 4 * np.log(4.0)
    np.testing.assert_allclose(scaled.score_samples(4.0 * table), moved, rtol=1e-9)
    np.testing.assert_allclose(scaled.sample(5), 4.0 * model.sample(5), rtol=1e-9)


def test_density_does_not_depend_on_the_order_of_rows():
    """The first half of the rows lies in a point, as those of a class may."""
    draw = np.random.RandomState(0)
    x = np.concatenate([draw.normal(0.0, 0.01, (1200, 3)), draw.normal(5.0, 2.0, (1200, 3))])

    orders = [x, x[::-1], draw.permutation(x)]
    scores = [StackedDAE((8, 2), **QUICK).fit(rows).score(x) for rows in orders]
    assert np.ptp(scores) < 0.5


def test_codes_keep_what_a_table_says(table):
    model = StackedDAE((16, 2), epochs=50, corruption=0.1, random_state=0).fit(table)
    again = model.inverse_transform(model.transform(table))

    assert np.square((again - table) / table.std(0)).mean() < 0.05
    assert np.allclose(model.sample(2000).mean(0), table.mean(0), atol=0.3 * table.std(0))


def test_pixels_stay_pixels(pixels):
    x, _ = pixels
    model = StackedDAE((30, 8), **QUICK).fit(x)
    assert model.scale_.pixels
    assert (model.scale_.scaled(x) == x).all()

    samples = model.sample(50)
    assert samples.min() >= 0.0
    assert samples.max() <= 1.0


def test_samples_are_repeatable_and_others_by_random_state(table):
    model = StackedDAE(np.array([8, 2]), batch_size=np.int64(50), **QUICK).fit(table)
    with pytest.raises(ValueError, match="n_samples=0"):
        model.sample(0)

    assert np.array_equal(model.sample(3), model.sample(3))
    assert np.array_equal(model.sample(3, random_state=1), model.sample(3, random_state=1))
    assert not np.array_equal(model.sample(3), model.sample(3, random_state=1))


# -- TargetPropClassifier -----------------------------------------------------------------------


def test_labels_of_any_type(pixels):
    x, y = pixels
    names = np.array([f"digit {label}" for label in range(10)])[y]
    model = TargetPropClassifier((50, 50), epochs=20, random_state=0).fit(x[:500], names[:500])

    assert list(model.classes_) == sorted(set(names))
    assert model.score(x[500:], names[500:]) > 0.85
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1.0)


def test_every_hidden_layer_learns(pixels):
    x, y = pixels
    still = TargetPropClassifier((20, 20), epochs=0, random_state=0).fit(x, y).stack_
    moved = TargetPropClassifier((20, 20), **QUICK).fit(x, y).stack_
    for before, after in zip(still.encoders, moved.encoders, strict=True):
        assert not torch.equal(before.weight, after.weight)


# -- DAEImputer ---------------------------------------------------------------------------------


def test_missing_cells_follow_from_the_others(table):
    """Each feature says all of the first one's value, so that fillings come near the truth."""
    x, mask = hidden(table)
    filled = DAEImputer((32, 32), epochs=50, learning_rate=1e-2, random_state=0).fit_transform(x)

    assert np.array_equal(filled[~mask], table[~mask])
    error = np.square((filled - table) / table.std(0))[mask].mean()
    mean = np.square((np.nanmean(x, 0) - table) / table.std(0))[mask].mean()
    assert error < 0.2 * mean


def test_new_rows_are_filled_without_those_of_fit(pixels):
    x, _ = pixels
    rows, mask = hidden(x[500:])
    imputer = DAEImputer((64, 64), epochs=40, learning_rate=1e-2, random_state=0).fit(x[:500])

    error = np.square(imputer.transform(rows) - x[500:])[mask].mean()
    assert error < 0.6 * np.square(x[:500].mean(0) - x[500:])[mask].mean()
    first = imputer.transform(rows[:1])
    np.testing.assert_allclose(first, imputer.transform(rows)[:1], rtol=1e-12)


def test_fillings_lie_between_the_values_of_fit(table):
    x, _ = hidden(table[:20], 0.5)
    filled = DAEImputer((32, 32), epochs=100, learning_rate=1e-2, random_state=0).fit_transform(x)
    assert (filled >= np.nanmin(x, 0) - 1e-9).all()
    assert (filled <= np.nanmax(x, 0) + 1e-9).all()


def test_features_without_values_and_without_variance():
    x = np.array([[np.nan, 7.0, 1.0], [np.nan, 7.0, 20.0], [np.nan, np.nan, np.nan]])
    filled = DAEImputer((4,), **QUICK).fit_transform(x)
    assert (filled[:, 0] == 0.0).all()
    assert (filled[:, 1] == 7.0).all()
    assert 1.0 <= filled[2, 2] <= 20.0


# -- the contract beyond scikit-learn's own checks ------------------------------------------------

SMALL = [
    StackedDAE((6, 3), **QUICK),
    TargetPropClassifier((6, 6), **QUICK),
    DAEImputer((6, 6), **QUICK),
    ParzenDensity(0.5),
]


def result_of(model, x):
    for name in ("predict_proba", "transform", "score_samples"):
        if hasattr(model, name):
            return getattr(model, name)(x)

    raise AssertionError(model)


@pytest.mark.parametrize("model", SMALL, ids=lambda model: type(model).__name__)
def test_training_disturbs_nothing_and_repeats(model, tmp_path, monkeypatch, capfd, recwarn):
    x = np.random.RandomState(0).rand(30, 5) + 1.0
    y = np.arange(30) % 3
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1]
    accelerators = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", accelerators.append)

    fitted = clone(model).fit(x, y)
    first = result_of(fitted, x)

    assert torch.equal(torch.get_rng_state(), before[0])
    assert accelerators == []
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []

    torch.manual_seed(8)
    assert np.array_equal(result_of(clone(model).fit(x, y), x), first)
    assert np.array_equal(result_of(pickle.loads(pickle.dumps(fitted)), x), first)


def test_names_of_features(table):
    frame = pd.DataFrame(table, columns=["a", "b", "c", "d"])
    model = StackedDAE((6, 2), **QUICK).set_output(transform="pandas").fit(frame)
    assert list(model.feature_names_in_) == list("abcd")
    assert list(model.transform(frame).columns) == ["stackeddae0", "stackeddae1"]

    imputer = DAEImputer((6,), **QUICK).set_output(transform="pandas").fit(frame)
    assert list(imputer.transform(frame.mask(frame > 100)).columns) == list("abcd")


def test_pipelines_searches_and_cross_validation(pixels):
    x, y = pixels
    x, y = x[:300], y[:300]
    gaps, _ = hidden(x)

    steps = make_pipeline(DAEImputer((40,), **QUICK), TargetPropClassifier((40,), random_state=0))
    assert cross_val_score(steps, gaps, y, cv=2).min() > 0.6

    codes = make_pipeline(StackedDAE((20, 10), **QUICK), LogisticRegression())
    search = GridSearchCV(codes, {"stackeddae__epochs": [0, 10]}, cv=2).fit(x, y)
    assert search.best_params_ == {"stackeddae__epochs": 10}

    grid = {"bandwidth": [0.01, 0.2, 2.0]}
    assert GridSearchCV(ParzenDensity(), grid, cv=2).fit(x).best_params_ == {"bandwidth": 0.2}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (StackedDAE(hidden=()), "hidden"),
        (StackedDAE(hidden=5), "hidden"),
        (StackedDAE(hidden=None), "hidden=None"),
        (DAEImputer(hidden="64"), "hidden='64'"),
        (TargetPropClassifier(hidden=np.array(5)), "hidden"),
        (StackedDAE(hidden=(5, 0)), "hidden"),
        (TargetPropClassifier(epochs=-1), "epochs"),
        (TargetPropClassifier(batch_size=0), "batch_size"),
        (TargetPropClassifier(learning_rate=-1.0), "learning_rate"),
        (StackedDAE(corruption=-0.1), "corruption"),
        (DAEImputer(corruption=1.5), "corruption"),
        (DAEImputer(rounds=-1), "rounds"),
        (StackedDAE(device="abacus"), "device"),
        (StackedDAE(device=None), "device=None: cpu, cuda"),
        (ParzenDensity(device=[]), "device=\\[\\]: cpu, cuda"),
        (StackedDAE(random_state="now"), "random_state='now'"),
        (ParzenDensity(0.0), "bandwidth"),
        (ParzenDensity("wide"), "bandwidth"),
    ],
)
def test_bad_parameters_are_named(model, words):
    x = np.random.RandomState(0).rand(10, 3)
    with pytest.raises(ValueError, match=words):
        model.fit(x, np.arange(10) % 2)


@pytest.mark.parametrize("model", SMALL[:3], ids=lambda model: type(model).__name__)
def test_what_cannot_be_learned_is_said(model):
    x = np.random.RandomState(0).normal(size=(20, 3))
    y = np.arange(20) % 2
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        clone(model).set_params(epochs=20, learning_rate=1e30).fit(x, y)
    with pytest.raises(ValueError, match=r"X holds numbers up to .*e\+\d\d\d, too large"):
        clone(model).fit(1e200 * x, y)
