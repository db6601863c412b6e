"""Measures time and memory of the complete image_processor job on a folder of 200,000 generated images.

Goal: 1,500 MiB at most; the pixels of the images alone are 586 MiB.
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
    """Write the images, run the job for one epoch, print time and memory."""
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
        usage = run(
            [PYTHON, "-m", "dagster", "job", "execute", *job],
            {
                "DAGSTER_HOME": str(home),
                "MLFLOW_TRACKING_URI": "",
                "TMPDIR": name,
                "JUKEBOX_ORCH_EXECUTOR": "",
            },
        )
    result = "within" if usage.peak <= GOAL_MIB else "ABOVE"
    print(
        f"{images:,} images, one epoch: {usage.wall:.0f} s, {usage.cpu:.0f} s of CPU, peak {usage.peak:.0f} MiB "
        f"({result} the goal of {GOAL_MIB:,} MiB)"
    )


def write_images(folder: Path, images: int) -> None:
    """Write `images` different 32 x 32 BMP files to ten class folders; the class sets the tint."""
    random = np.random.default_rng(0)
    tints = random.integers(0, 156, (_CLASSES, 3))
    for label in range(_CLASSES):
        (folder / str(label)).mkdir(parents=True)
    for start in range(0, images, 1000):
        noise = random.integers(0, 100, (1000, 32, 32, 3))
        for i in range(start, min(start + 1000, images)):
            pixels = (noise[i - start] + tints[i % _CLASSES]).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(i % _CLASSES) / f"{i:06}.bmp")
