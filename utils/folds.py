"""Folds from classes and groups; scikit-learn does the splitting."""

import numpy as np

from utils.errors import UserError


def deciles(values: np.ndarray, n_splits: int) -> np.ndarray:
    """(N,) int64, 0..9: the tenth of the values that each is in; fewer and larger parts where a tenth is < n_splits."""
    n_bins = max(1, min(10, len(values) // n_splits))
    if n_bins == 1:
        return np.zeros(len(values), dtype=np.int64)
    edges = np.quantile(values, np.arange(1, n_bins) / n_bins)
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def split(classes: np.ndarray, groups: list[str] | None, n_splits: int, seed: int) -> np.ndarray:
    """The fold of each image.

    Args:
        classes: (N,) int64; every fold gets about the same share of each.
        groups: N names, or None; no group is in two folds.
        n_splits: number of folds, at least 2 and at most N.
        seed: of the shuffling.

    Returns:
        (N,) int64, 0..n_splits - 1.

    Raises:
        UserError: fewer groups than folds, or groups so uneven that a fold stays empty.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if groups and len(set(groups)) < n_splits:
        raise UserError(f"--group: {len(set(groups))} groups, from which no {n_splits} folds can be made")
    classes = pool_rare(classes, n_splits)
    stratified = len(np.unique(classes)) > 1
    if groups:
        splitter = StratifiedGroupKFold if stratified else GroupKFold
    else:
        splitter = StratifiedKFold if stratified else KFold
    folds = np.full(len(classes), -1, dtype=np.int64)
    parts = splitter(n_splits, shuffle=True, random_state=seed).split(classes, classes, groups)
    for fold, (_, held_out) in enumerate(parts):
        if not len(held_out):
            raise UserError(f"--group: its groups are too uneven, fold {fold} stays empty; ask for fewer folds")
        folds[held_out] = fold
    return folds


def pool_rare(classes: np.ndarray, n_splits: int) -> np.ndarray:
    """Make one class of all that have fewer images than there are folds, and so cannot be in every fold.

    Together they are at least spread evenly; scikit-learn would warn, and place each by itself. If even together they
    are too few, they join the smallest of the others.
    """
    names, place, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    rare = sizes[place] < n_splits
    if not rare.any():
        return classes
    pooled = np.where(rare, names.min() - 1, classes)
    enough = sizes >= n_splits
    if rare.sum() < n_splits and enough.any():
        pooled[rare] = names[enough][np.argmin(sizes[enough])]
    return pooled
