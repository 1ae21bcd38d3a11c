"""Estimators and pipelines of scikit-learn, XGBoost and LightGBM, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightgbm
import xgboost
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC

CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "gradient": lambda: GradientBoostingClassifier(n_estimators=20),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=20),
    "forest": lambda: RandomForestClassifier(20),
    "ada": lambda: AdaBoostClassifier(n_estimators=10),
    "logistic": LogisticRegression,
    "network": lambda: make_pipeline(StandardScaler(), MLPClassifier((20, 20), max_iter=50)),
    "vectors": lambda: SVC(probability=True),
    "bayes": GaussianNB,
    "neighbours": KNeighborsClassifier,
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=20),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=20, verbose=-1),
    "lightgbm_in_a_pipeline": lambda: make_pipeline(
        MinMaxScaler(), lightgbm.LGBMClassifier(n_estimators=20, verbose=-1)
    ),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    "gradient": lambda: GradientBoostingRegressor(n_estimators=20),
    "histogram": lambda: HistGradientBoostingRegressor(max_iter=20),
    "trees": lambda: ExtraTreesRegressor(10),
    "polynomial": lambda: make_pipeline(PolynomialFeatures(2), Ridge()),
    "network": lambda: MLPRegressor(hidden_layer_sizes=(20,), max_iter=50),
    "process": GaussianProcessRegressor,
    "xgboost": lambda: xgboost.XGBRegressor(n_estimators=20),
    "lightgbm": lambda: lightgbm.LGBMRegressor(n_estimators=20, verbose=-1),
}
