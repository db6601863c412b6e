"""Validation of images, and their assignment to splits."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset, Finding, InputError, Validation, split_by_share
from jukebox_orch.contract.memmap import iter_chunks
from jukebox_orch.projects.image_processor.shapes import CHANNELS, images_per_chunk

_SMALLEST_CLASS = 3


def validate_images(dataset: Dataset) -> Validation:
    """Check the project's rules. Blank and contradictory images are quarantined; other problems are fatal."""
    images, samples, classes = dataset.get("images"), dataset.get("samples"), dataset.get("classes")
    if not (
        isinstance(images, np.ndarray)
        and isinstance(samples, pd.DataFrame)
        and isinstance(classes, pd.DataFrame)
        and images.dtype == np.uint8
        and images.ndim == 4
        and images.shape[3] in CHANNELS.values()
        and len(images) == len(samples) > 0
    ):
        actual = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else "missing"
        message = f"images are {actual}; expected uint8 (n, height, width, 1 or 3) with n > 0 and n samples"
        return Validation(0, 0, [Finding("images", message, 1, fatal=True)])
    labels, names = samples["label"].to_numpy(), classes["name"].tolist()
    outside = ~_are_classes(labels, len(names))
    if outside.any():
        first = samples[outside].iloc[0]
        message = (
            f"{first['file']}: image {first['row']} has label {first['label']}; there are {len(names)} classes, "
            "numbered from 0. Name the missing classes or correct the labels"
        )
        return Validation(
            len(samples), int(outside.sum()), [_finding("labels", message, samples, outside, fatal=True)]
        )

    blank, contradictory, digests = _unusable(images, labels)
    findings = []
    if blank.any():
        findings.append(_finding("blank", "images of a single colour are left out", samples, blank))
    if contradictory.any():
        message = "the same image occurs with different labels; all its copies are left out"
        findings.append(_finding("contradictions", message, samples, contradictory))
    usable = ~(blank | contradictory)
    different = [len(np.unique(digests[usable & (labels == i)])) for i in range(len(names))]
    small = [f"{n!r} ({count})" for n, count in zip(names, different, strict=True) if count < _SMALLEST_CLASS]
    if len(names) < 2 or small:
        files = ", ".join(samples["file"].astype(str).unique()[:3])
        message = (
            f"{files}: only one class, {names[0]!r}; a classifier needs two or more"
            if len(names) == 1
            else f"{files}: too few different usable images (need {_SMALLEST_CLASS}) of {', '.join(small[:10])}"
        )
        findings.append(Finding("classes", message, max(1, len(small)), fatal=True))
    return Validation(len(samples), int((~usable).sum()), findings)


def tables(dataset: Dataset) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """Return images, samples and class names of a dataset that passed validation."""
    images, samples, classes = dataset["images"], dataset["samples"], dataset["classes"]
    return np.asanyarray(images), pd.DataFrame(samples), pd.DataFrame(classes)["name"].tolist()


def has_published_test(dataset: Dataset, published_test: bool) -> bool:
    """Return whether the test split is the published test images: the setting is on, and the source marks some."""
    # A missing mark, which makes the column float, is not a mark.
    return published_test and bool((tables(dataset)[1]["test"].to_numpy() == 1).any())


def split_rows(
    dataset: Dataset, validation_share: float, test_share: float, published_test: bool, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return row numbers (ascending) and image digests of train, validation and test.

    Every class is divided by the shares. Equal images go to the same split; a training image that is also in
    the published test split is left out.

    Raises:
        InputError: a class has too few images for the splits, or no published test image is usable.
    """
    images, samples, names = tables(dataset)
    labels = samples["label"].to_numpy()
    blank, contradictory, digests = _unusable(images, labels)
    # Features are built in parallel with validation, so invalid labels must not cause a traceback here.
    known = _are_classes(labels, len(names))
    usable = ~(blank | contradictory) & known
    labels = np.where(known, labels, 0).astype(np.int64)
    is_published = has_published_test(dataset, published_test)
    published = np.flatnonzero(usable & (samples["test"].to_numpy() == 1) & is_published)
    if is_published and not len(published):
        raise InputError(
            "none of the published test images can be used; correct them, or set split.published_test: false"
        )
    rest = np.flatnonzero(usable & ~np.isin(digests, digests[published]))
    if missing := sorted(set(range(len(names))) - set(labels[rest])):
        raise InputError(f"class {names[missing[0]]!r} has no images except the published test images")
    shares = split_by_share(
        digests[rest],
        validation_share,
        0 if is_published else test_share,
        seed,
        np.asarray(names)[labels[rest]],
    )
    rows = {name: rest[index] for name, index in shares.items()}
    if is_published:
        rows["test"] = published
    return {name: (index, digests[index]) for name, index in rows.items()}


def color_statistics(dataset: Dataset) -> pd.DataFrame:
    """Return per image: label, brightness (mean), contrast (standard deviation); of RGB the mean of each colour too."""
    images, samples, _ = tables(dataset)
    # The only channel of a grey image is its brightness.
    channels = ["red", "green", "blue"] if images.shape[3] == CHANNELS["rgb"] else []
    values = np.empty((len(images), 2 + len(channels)))
    for start, chunk in iter_chunks(images, images_per_chunk(images.shape[1:])):
        means = chunk.mean(axis=(1, 2))
        values[start : start + len(chunk), 0] = means.mean(axis=1)
        values[start : start + len(chunk), 1] = chunk.std(axis=(1, 2, 3))
        values[start : start + len(chunk), 2:] = means[:, : len(channels)]
    table = pd.DataFrame(values, columns=["brightness", "contrast", *channels])
    return table.assign(label=samples["label"].to_numpy())


def _are_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return (n,) bool: whether a label is a whole number in 0..classes - 1; False for a missing label."""
    return (labels >= 0) & (labels < classes) & (labels % 1 == 0)


def _unusable(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (n,) bool: blank; (n,) bool: same pixels with other label; (n,) uint64: digest of the pixels."""
    blank = np.empty(len(images), bool)
    digests = np.empty(len(images), np.uint64)
    for start, chunk in iter_chunks(images, images_per_chunk(images.shape[1:])):
        flat = np.ascontiguousarray(chunk).reshape(len(chunk), -1, images.shape[-1])
        blank[start : start + len(chunk)] = (flat == flat[:, :1]).all(axis=(1, 2))
        joined = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in flat)
        digests[start : start + len(chunk)] = np.frombuffer(joined, "<u8")
    pairs = pd.DataFrame({"digest": digests, "label": labels})
    contradictory = pairs.groupby("digest")["label"].transform("nunique").to_numpy() > 1
    return blank, contradictory, digests


def _finding(
    rule: str, message: str, samples: pd.DataFrame, rows: np.ndarray, fatal: bool = False
) -> Finding:
    examples = samples[rows].head(5).astype({"file": str}).to_dict("records")
    return Finding(rule, message, int(rows.sum()), fatal, examples)  # pyright: ignore[reportArgumentType]
