"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels from 43 people, in a train and a test split.

They are the test part of UCI's "Optical Recognition of Handwritten Digits"
(https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits).
"""

import numpy as np

from jaxtickets.data.source import Examples

TEST_EVERY = 6


def to_bytes(gray: np.ndarray) -> np.ndarray:
    """Maps scikit-learn's gray levels 0 to 16 to uint8 0 to 255, rounded to the nearest."""
    return np.round(gray * (255 / 16)).astype(np.uint8)


def is_test(labels: np.ndarray) -> np.ndarray:
    """Returns bool `[n]`: which images are for testing, every sixth of each class in scikit-learn's order.

    labels: `[n]` int.
    """
    marks = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        marks[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return marks


def examples(split: str) -> Examples:
    """The 1,501 train or the 296 test images (29 or 30 of each class), gray levels stretched to 0..255.

    Within a split the order is scikit-learn's.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    chosen = is_test(digits.target) == (split == "test")
    images, labels = to_bytes(digits.images[chosen])[..., None], digits.target[chosen].tolist()

    def read(start, stop):
        return [(images[i], labels[i], f"image {i}") for i in range(start, stop)]

    return Examples(len(images), read, tuple("0123456789"))
