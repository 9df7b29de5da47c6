"""Rendered cartoon faces as a TFDS data set: a stand-in for CelebA that needs neither a network nor TensorFlow."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxtickets.data.faces import ATTRIBUTES, attributes, draw_face
from jaxtickets.data.painting import SIZE, render

TRAIN, TEST = 20_000, 2_000


class SyntheticFaces(tfds.core.GeneratorBasedBuilder):
    """22,000 rendered 64x64 RGB faces: indices 0 to 19,999 are the train split, the next 2,000 the test split."""

    VERSION = tfds.core.Version("1.0.0")
    COUNTS = {"train": TRAIN, "test": TEST}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Anti-aliased cartoon faces rendered from known attributes.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "attributes": {name: np.bool_ for name in ATTRIBUTES},
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        train, test = self.COUNTS["train"], self.COUNTS["test"]
        return {
            "train": self._generate_examples(range(train)),
            "test": self._generate_examples(range(train, train + test)),
        }

    def _generate_examples(self, indices):
        for index in indices:
            face = draw_face(index)
            # TFDS encodes arrays with TensorFlow; a stream that is a PNG already is stored as it is.
            stream = io.BytesIO()
            Image.fromarray(render(face)).save(stream, "png", compress_level=1)
            stream.seek(0)
            yield index, {"image": stream, "attributes": attributes(face)}
