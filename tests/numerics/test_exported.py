"""Classical models as scikit-learn, XGBoost and LightGBM export them, against ONNX Runtime and the library itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.numerics.exported import Exported, by_compiler, check, fitted


def sklearn(part: str) -> Any:
    """A module of scikit-learn; without it there is nothing to test here."""
    return pytest.importorskip(f"sklearn.{part}", reason="scikit-learn is not installed")


skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
PARTS = ("ensemble", "linear_model", "neural_network", "pipeline", "preprocessing", "svm", "tree", "impute")
ensemble, linear_model, neural_network, pipeline, preprocessing, svm, tree, impute = map(sklearn, PARTS)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 6)).astype(np.float32)
TWO = (X[:, 0] * X[:, 1] + 0.3 * X[:, 2] > 0).astype(np.int64)
FOUR = 2 * TWO + (X[:, 3] > 0.2)
REAL = (X[:, 0] * X[:, 1] + X[:, 2]).astype(np.float32)
HOLES = np.where(RNG.uniform(size=X.shape) < 0.1, np.nan, X).astype(np.float32)
CODES = RNG.integers(0, 4, (400, 3))


def skl(
    model: object,
    y: np.ndarray | None = REAL,
    x: np.ndarray = X,
    exact: str = "",
    zipmap: bool = False,
    **options: object,
) -> Exported:
    """`exact` is the method of the library that gives the last result in double precision."""
    done = fitted(model, x, y)
    if hasattr(done, "predict_proba") or isinstance(done, svm.SVC):
        options["zipmap"] = zipmap
    exported = skl2onnx.to_onnx(
        done, x[:1], options={id(done): options} if options else None, target_opset={"": 21, "ai.onnx.ml": 3}
    )
    return Exported(exported, x, getattr(done, exact) if exact else None)


def trees() -> dict[str, Exported]:
    few = {"n_estimators": 11, "random_state": 0}
    named = np.array(["no", "yes"])[TWO]
    return {
        "forest": skl(ensemble.RandomForestClassifier(max_depth=6, **few), TWO, exact="predict_proba"),
        "forest_of_four": skl(ensemble.RandomForestClassifier(**few), FOUR, exact="predict_proba"),
        "forest_of_numbers": skl(ensemble.RandomForestRegressor(**few), exact="predict"),
        "forest_of_pairs": skl(ensemble.RandomForestRegressor(max_depth=4, **few), X[:, :2], exact="predict"),
        "extra": skl(ensemble.ExtraTreesClassifier(max_depth=5, **few), FOUR, exact="predict_proba"),
        "tree": skl(tree.DecisionTreeClassifier(max_depth=5), FOUR, exact="predict_proba"),
        "leaf": skl(tree.DecisionTreeRegressor(max_depth=1), exact="predict"),
        "boosted": skl(ensemble.GradientBoostingClassifier(**few), TWO, exact="predict_proba"),
        "boosted_four": skl(ensemble.GradientBoostingClassifier(**few), FOUR, exact="predict_proba"),
        "boosted_numbers": skl(ensemble.GradientBoostingRegressor(**few), exact="predict"),
        "maps": skl(ensemble.RandomForestClassifier(max_depth=3, **few), TWO, zipmap=True),
        "named": skl(tree.DecisionTreeClassifier(max_depth=3), named, exact="predict_proba"),
    }


def linear() -> dict[str, Exported]:
    return {
        "logistic": skl(linear_model.LogisticRegression(), TWO, exact="predict_proba"),
        "logistic_of_four": skl(linear_model.LogisticRegression(), FOUR, exact="predict_proba"),
        "linear": skl(linear_model.LinearRegression(), exact="predict"),
        "linear_of_pairs": skl(linear_model.LinearRegression(), X[:, :2], exact="predict"),
        "linear_svc": skl(svm.LinearSVC(), TWO, exact="decision_function"),
        "linear_svc_of_four": skl(svm.LinearSVC(), FOUR, exact="decision_function"),
        **{
            f"svc_{kernel}": skl(svm.SVC(kernel=kernel), FOUR, exact="decision_function")
            for kernel in ("rbf", "poly", "sigmoid", "linear")
        },
        **{f"svr_{kernel}": skl(svm.SVR(kernel=kernel), exact="predict") for kernel in ("rbf", "poly", "linear")},
        "svc_two": skl(svm.SVC(), TWO, exact="decision_function"),
        "one_class": skl(svm.OneClassSVM(), None, exact="decision_function"),
        "perceptron": skl(neural_network.MLPClassifier((8,), max_iter=50, random_state=0), FOUR, exact="predict_proba"),
    }


def features() -> dict[str, Exported]:
    return {
        "standard": skl(preprocessing.StandardScaler(), exact="transform"),
        "robust": skl(preprocessing.RobustScaler(), exact="transform"),
        "binarizer": skl(preprocessing.Binarizer(threshold=0.25), exact="transform"),
        **{f"norm_{n}": skl(preprocessing.Normalizer(norm=n), exact="transform") for n in ("l1", "l2")},
        "imputer": skl(impute.SimpleImputer(), x=HOLES, exact="transform"),
        "one_hot": skl(preprocessing.OneHotEncoder(sparse_output=False), x=CODES, exact="transform"),
        "pipeline": skl(
            pipeline.make_pipeline(
                impute.SimpleImputer(), preprocessing.StandardScaler(), linear_model.LogisticRegression()
            ),
            TWO,
            HOLES,
            exact="predict_proba",
        ),
        "deep_pipeline": skl(
            pipeline.make_pipeline(
                preprocessing.StandardScaler(), neural_network.MLPClassifier((8,), max_iter=20, random_state=0)
            ),
            FOUR,
            exact="predict_proba",
        ),
    }


def _converted(kind: str, model: object, y: np.ndarray, x: np.ndarray, **how: object) -> Exported:
    convert = pytest.importorskip("onnxmltools.convert", reason="onnxmltools is not installed")
    from onnxmltools.convert.common.data_types import FloatTensorType

    done = fitted(model, x, y)
    inputs = [("x", FloatTensorType([None, x.shape[1]]))]
    return Exported(getattr(convert, f"convert_{kind}")(done, initial_types=inputs, **how), x)


def xgboost() -> dict[str, Exported]:
    library = pytest.importorskip("xgboost", reason="xgboost is not installed")
    few = {"n_estimators": 10, "max_depth": 4}
    return {
        "xgb_two": _converted("xgboost", library.XGBClassifier(**few), TWO, X),
        "xgb_four": _converted("xgboost", library.XGBClassifier(**few), FOUR, X),
        "xgb_numbers": _converted("xgboost", library.XGBRegressor(**few), REAL, X),
        "xgb_holes": _converted("xgboost", library.XGBRegressor(**few), REAL, HOLES),
    }


def lightgbm() -> dict[str, Exported]:
    library = pytest.importorskip("lightgbm", reason="lightgbm is not installed")
    few = {"n_estimators": 10, "num_leaves": 15, "verbose": -1}
    return {
        "lgb_two": _converted("lightgbm", library.LGBMClassifier(**few), TWO, X),
        "lgb_four": _converted("lightgbm", library.LGBMClassifier(**few), FOUR, X, zipmap=False),
        "lgb_numbers": _converted("lightgbm", library.LGBMRegressor(**few), REAL, X),
        "lgb_holes": _converted("lightgbm", library.LGBMClassifier(**few), TWO, HOLES, zipmap=False),
    }


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("made", [trees, linear, features, xgboost, lightgbm])
def test_exported_models(made: Callable[[], dict[str, Exported]]) -> None:
    """A threshold on the wrong side, a missing value down the wrong branch, scores of the wrong class, a wrong vote."""
    exported = made()
    results = by_compiler(exported)
    for name, one in exported.items():
        wanted = one.by_runtime()
        assert len(results[name]) == len(wanted), name
        for k, (got, runtime) in enumerate(zip(results[name], wanted, strict=True)):
            exact = None
            if one.exact is not None and k == len(wanted) - 1 and runtime.dtype.kind == "f":
                exact = one.exact(one.x.astype(np.float64) if one.x.dtype.kind == "f" else one.x)
                if exact.ndim == 1 and runtime.shape[1:] == (2,):
                    exact = np.stack([exact, -exact], 1)
            if runtime.dtype.kind not in "fi":  # labels that are strings: the index of the class
                classes = np.unique(runtime)
                runtime = np.searchsorted(classes, runtime)
            try:
                check(got, runtime, exact)
            except AssertionError as error:
                raise AssertionError(f"{name}, result {k}: {error}") from error
