"""scikit-learn's own checks of estimators."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from gendae import estimators

QUICK = [
    estimators.StackedDAE((6, 4), epochs=2),
    estimators.TargetPropClassifier((16,), epochs=10, batch_size=10, learning_rate=1e-2),
    estimators.DAEImputer((6,), epochs=2),
    estimators.ParzenDensity(),
]


@parametrize_with_checks(QUICK)
def test_contract_of_scikit_learn(estimator, check):
    check(estimator)
