"""The accuracy of a linear classifier on frozen features."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64
from congruence.metrics.labelled import labelled

_CHECKS: dict[str, check.Constraint] = {"regularization": check.POSITIVE, "steps": check.COUNT}
_log = logging.getLogger("congruence")


@torch.no_grad()
def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    regularization: float = 1.0,
    steps: int = 1000,
) -> float:
    """Test accuracy of a logistic regression on frozen features.

    The features are standardised by the training samples' means and deviations, and scikit-learn's multinomial
    logistic regression minimises Σ_i CE(W x_i + b, y_i) + (λ/2)‖W‖² over them, in float64 on the CPU, by L-BFGS.

    Shape:
        `train` [N, D], `train_labels` [N], `test` [M, D], `test_labels` [M].

    Args:
        train: embeddings of training samples.
        train_labels: integer classes, at least two; samples without a label (negative) are left out.
        test: embeddings of test samples.
        test_labels: integer classes; samples without a label are left out, those of a class without training samples
            count as wrong.
        regularization: λ > 0.
        steps: maximum steps of the optimiser; if they are not enough, a warning is logged.

    Returns:
        A fraction in [0, 1]. Memory is linear in N + M.

    Raises:
        ValueError: for shapes that do not fit, features that are not finite, a single training class, or an argument
            out of its range.

    Example:
        >>> import torch
        >>> x, labels = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> linear_probe(x, labels, torch.tensor([[-3.0], [5.0]]), torch.tensor([0, 1]))
        1.0
    """
    name = "linear_probe"
    check.hyperparameters(name, _CHECKS, regularization=regularization, steps=steps)
    check.floating(name, 2, train=train, test=test)
    check.same_width(name, train=train, test=test)
    check.class_labels(name, train_labels=train_labels, test_labels=test_labels)
    check.same_rows(name, train=train, train_labels=train_labels)
    check.same_rows(name, test=test, test_labels=test_labels)
    for argument, features in (("train", train), ("test", test)):
        if not bool(torch.isfinite(features).all()):
            check.fail(name, argument, "finite", "NaN or infinity")
    (train, train_labels), (test, test_labels) = labelled(train, train_labels), labelled(test, test_labels)
    if not len(test):
        check.fail(name, "test_labels", "of one labelled sample or more", "none")
    if len(train_labels.unique()) < 2:
        check.fail(name, "train_labels", "of two classes or more", "one")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = as_float64(train.cpu()), as_float64(test.cpu())
    centre, deviation = x.mean(0), x.std(0, correction=0)
    # A constant feature carries no information, even if rounding makes it vary.
    scale = torch.where(deviation > 1e-14 * centre.abs(), 1 / deviation, 0)
    x, y = (x - centre) * scale, (y - centre) * scale
    for argument, features, numbers in (("train", train, deviation), ("train", train, x), ("test", test, y)):
        if not bool(torch.isfinite(numbers).all()):
            size = float(features.abs().max())
            check.fail(name, argument, "small enough for squares in float64", f"entries of up to {size:.3g}")
    model = LogisticRegression(C=1 / regularization, max_iter=steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x.numpy(), train_labels.cpu().numpy())
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        _log.warning("`linear_probe`: not converged after %d steps.", steps)
    return float((model.predict(y.numpy()) == test_labels.cpu().numpy()).mean())
