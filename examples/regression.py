"""Two regressions on scikit-learn's diabetes data, as functions that call ``tune.report``. See regression.yaml.

The test rows are always the same. The seed decides which other rows are held out for validation.
"""

from typing import Any

from ray import tune
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TREES = 5
"""Trees per report."""
MOST_TREES = 200


def ridge(config: dict[str, Any]) -> None:
    """Ridge regression: it has one report."""
    data = Data(config["seed"])
    model = make_pipeline(StandardScaler(), Ridge(alpha=config["alpha"]))
    model.fit(data.train_x, data.train_y)
    tune.report(data.errors(model))


def boosting(config: dict[str, Any]) -> None:
    """Gradient boosting: a report after every few trees."""
    data = Data(config["seed"])
    model = GradientBoostingRegressor(
        learning_rate=config["learning_rate"],
        max_depth=config["max_depth"],
        subsample=config["subsample"],
        random_state=config["seed"],
        warm_start=True,
    )
    for trees in range(TREES, MOST_TREES + 1, TREES):
        model.set_params(n_estimators=trees)
        model.fit(data.train_x, data.train_y)
        tune.report(data.errors(model))


class Data:
    """The rows for training, validation and the test."""

    def __init__(self, seed: int) -> None:
        x, y = load_diabetes(return_X_y=True)
        rest_x, self.test_x, rest_y, self.test_y = train_test_split(x, y, test_size=0.25, random_state=0)
        parts = train_test_split(rest_x, rest_y, test_size=0.25, random_state=seed)
        self.train_x, self.val_x, self.train_y, self.val_y = parts

    def errors(self, model: Any) -> dict[str, float]:
        """Root mean squared errors."""
        return {
            "val_rmse": root_mean_squared_error(self.val_y, model.predict(self.val_x)),
            "test_rmse": root_mean_squared_error(self.test_y, model.predict(self.test_x)),
        }
