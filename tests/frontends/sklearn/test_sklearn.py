"""Models of scikit-learn, XGBoost and LightGBM against their libraries."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sofie
from sofie.errors import SofieError

NEEDS = "needs pip install '.[test-boosting]'"
for library in ("skl2onnx", "onnxmltools"):
    pytest.importorskip(library, reason=NEEDS)
xgboost = pytest.importorskip("xgboost", reason=NEEDS)
lightgbm = pytest.importorskip("lightgbm", reason=NEEDS)
linear_model = pytest.importorskip("sklearn.linear_model", reason=NEEDS)
estimators = pytest.importorskip("tests.frontends.sklearn.estimators", reason=NEEDS)

pytestmark = [pytest.mark.boosting, pytest.mark.usefixtures("needs_compiler")]

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 6)).astype(np.float32)
TWO = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int)
THREE = np.digitize(X[:, 0] + X[:, 3] ** 2, [0.3, 1.5])
VALUE = X[:, 0] + X[:, 1] ** 2


def fitted(model: Any, y: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", estimators.CLASSIFIERS)
def test_classifiers_give_labels_and_probabilities(name: str, classes: int) -> None:
    """Probabilities as maps, of the wrong class, or labels that do not follow from them."""
    model = fitted(estimators.CLASSIFIERS[name](), TWO if classes == 2 else THREE)
    compiled = sofie.compile(sofie.from_sklearn(model), dims={"batch": (1, 400)})
    for rows in (1, 7, 400):
        labels, probabilities = compiled(X[:rows])
        np.testing.assert_array_equal(labels, model.predict(X[:rows]))
        np.testing.assert_allclose(probabilities, model.predict_proba(X[:rows]), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", estimators.REGRESSORS)
def test_regressors(name: str) -> None:
    """A base value, a scale, or a tree that is left out."""
    model = fitted(estimators.REGRESSORS[name](), VALUE)
    compiled = sofie.compile(sofie.from_sklearn(model), dims={"batch": (1, 400)})
    tolerance = 1e-3 if name == "process" else 1e-5  # its converter computes distances in float32
    want = model.predict(X[:100])
    np.testing.assert_allclose(compiled(X[:100]).reshape(-1), want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def test_boosters_and_their_files(tmp_path: Path) -> None:
    """A file that the command line does not take, or a booster whose objective is forgotten."""
    ours = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, TWO), 20)
    theirs = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, TWO), 20)
    ours.save_model(tmp_path / "x.json")
    ours.save_model(tmp_path / "x.ubj")
    theirs.save_model(tmp_path / "l.txt")
    for model, want in (
        (sofie.from_sklearn(ours), ours.predict(xgboost.DMatrix(X))),
        (tmp_path / "x.json", ours.predict(xgboost.DMatrix(X))),
        (tmp_path / "x.ubj", ours.predict(xgboost.DMatrix(X))),
        (sofie.from_sklearn(theirs), theirs.predict(X)),
        (tmp_path / "l.txt", theirs.predict(X)),
    ):
        _, probabilities = sofie.compile(model, dims={"batch": 400})(X)
        np.testing.assert_allclose(probabilities[:, 1], want, rtol=1e-5, atol=2e-6)


def test_what_cannot_be_converted_is_one_sentence(tmp_path: Path) -> None:
    """A page of attributes, or a file of something else that is taken."""
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.txt").write_text("hello")

    class Own(linear_model.Ridge):
        pass

    cases: list[tuple[Any, str]] = [
        (tmp_path / "a.json", "is no model of XGBoost"),
        (tmp_path / "b.txt", "is no model of XGBoost or LightGBM"),
        (tmp_path / "none.ubj", "there is no file"),
        (linear_model.Ridge(), "fit it first"),
        (fitted(Own(), VALUE), "Own cannot be converted to ONNX"),
        (3, "features=N"),
    ]
    for model, sentence in cases:
        with pytest.raises(SofieError, match=".") as raised:
            sofie.from_sklearn(model)
        assert sentence in str(raised.value) and "\n" not in str(raised.value)
