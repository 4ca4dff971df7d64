"""The embedded source: scikit-learn's handwritten digits (UCI), 1,797 grey images of 8x8 pixels in 17 levels."""

import numpy as np
from sklearn.datasets import load_digits

from nepa.data.images import Images


def read_digits() -> Images:
    """All of them, (1797, 8, 8, 1)."""
    digits = load_digits()
    return Images(np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64))
