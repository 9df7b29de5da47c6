"""scikit-learn's handwritten digits as a TFDS data set that needs neither a network nor TensorFlow."""

import io

import numpy as np
import tensorflow_datasets as tfds

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


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 8x8 digits from 43 people (UCI "Optical Recognition of Handwritten Digits", its test part).

    1,501 train and 296 test images; each class has 29 or 30 test images. Within a split the order is scikit-learn's.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="The handwritten digits that scikit-learn ships, gray levels stretched to 0..255.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        from sklearn import datasets

        digits = datasets.load_digits()
        test = is_test(digits.target)
        return {
            "train": self._generate_examples(digits.images[~test], digits.target[~test]),
            "test": self._generate_examples(digits.images[test], digits.target[test]),
        }

    def _generate_examples(self, images, labels):
        from PIL import Image

        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            # TFDS encodes arrays with TensorFlow; a stream that is a PNG already is stored as it is.
            stream = io.BytesIO()
            Image.fromarray(to_bytes(image)).save(stream, "png")
            stream.seek(0)
            yield index, {"image": stream, "label": int(label)}
