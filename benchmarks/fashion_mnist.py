"""Makes a zip of PNG files from Fashion-MNIST's training images, for runs on real data without a network.

    apt-get install dataset-fashion-mnist
    python benchmarks/fashion_mnist.py runs/fashion_mnist.zip [--images=20000]
    python -m jaxtickets.main --config=... --config.data.name=folder:runs/fashion_mnist.zip

Debian's package has the images in IDX files: a header of 16 bytes, then 28x28 bytes per image (Xiao et al. 2017).
"""

import argparse
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def images(file: Path) -> np.ndarray:
    """`[n, rows, columns]` uint8 of a gzipped IDX file."""
    content = gzip.decompress(file.read_bytes())
    magic, n, rows, columns = np.frombuffer(content[:16], ">i4")
    if magic != 2051:
        raise ValueError(f"{file}: starts with {magic}; the IDX files of images start with 2051")
    return np.frombuffer(content[16:], np.uint8).reshape(n, rows, columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument(
        "--idx", type=Path, default=Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
    )
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.out, "w") as archive:
        for number, image in enumerate(images(options.idx)[: options.images]):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "png")
            archive.writestr(f"{number:05d}.png", buffer.getvalue())


if __name__ == "__main__":
    main()
