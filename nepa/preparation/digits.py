"""The embedded source: scikit-learn's handwritten digits (UCI), 1,797 grey images of 8x8 pixels in 17 levels."""

import numpy as np
from sklearn.datasets import load_digits


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8, 1) uint8 and labels (1797,) int64."""
    digits = load_digits()
    return np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)
