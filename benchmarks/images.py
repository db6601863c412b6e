"""The whole image_processor job over a folder of 200,000 generated images: time and memory.

Goal: 1,500 MiB at most, of which the images alone are 586 MiB as pixels.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import PYTHON, run

IMAGES = 200_000
GOAL_MIB = 1500
_CLASSES = 10


def main(images: int = IMAGES) -> None:
    """Write the images, run the job for one epoch, print what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", images)
        home = folder / "home"
        home.mkdir()
        config = folder / "run.json"
        config.write_text(
            json.dumps({"source": {"location": str(folder / "images")}, "hyperparameters": {"epochs": 1}})
        )
        job = ["-m", "jukebox_orch.definitions", "-j", "image_processor_training", "-c", str(config)]
        used = run(
            [PYTHON, "-m", "dagster", "job", "execute", *job],
            {
                "DAGSTER_HOME": str(home),
                "MLFLOW_TRACKING_URI": "",
                "TMPDIR": name,
                "JUKEBOX_ORCH_EXECUTOR": "",
            },
        )
    verdict = "within" if used.peak <= GOAL_MIB else "ABOVE"
    print(
        f"{images:,} images, one epoch: {used.wall:.0f} s, {used.cpu:.0f} s of CPU, peak {used.peak:.0f} MiB "
        f"({verdict} the goal of {GOAL_MIB:,} MiB)"
    )


def write_images(folder: Path, images: int) -> None:
    """`images` different 32 x 32 BMP files in ten class folders; the class tints the image."""
    random = np.random.default_rng(0)
    tints = random.integers(0, 156, (_CLASSES, 3))
    for label in range(_CLASSES):
        (folder / str(label)).mkdir(parents=True)
    for start in range(0, images, 1000):
        noise = random.integers(0, 100, (1000, 32, 32, 3))
        for i in range(start, min(start + 1000, images)):
            pixels = (noise[i - start] + tints[i % _CLASSES]).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(i % _CLASSES) / f"{i:06}.bmp")
