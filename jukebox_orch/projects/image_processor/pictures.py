"""Image files of any size and mode to 32 x 32 RGB, or a reason why not."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from jukebox_orch.contract import InputError

if TYPE_CHECKING:
    from PIL import Image

FILE_LIMIT = 64 << 20
"""Bytes an image file may have."""

# Few, well-kept decoders: Pillow would also hand files to Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_PIXEL_LIMIT = 64_000_000


def decode(where: str, content: bytes, convert: bool) -> np.ndarray:
    """One image as uint8 (32, 32, 3).

    Args:
        where: the file, for messages.
        convert: resize other sizes (bilinear) and turn grey, palette and transparent images into RGB.

    Raises:
        InputError: not an image, damaged, or of another size or mode and `convert` is off.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise InputError(f"{where}: has zero bytes")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _refuse(where, image, convert)
            image.load()
            if convert:
                image = ImageOps.exif_transpose(image).convert("RGB")  # noqa: PLW2901 - same picture
                image = image.resize((32, 32), Image.Resampling.BILINEAR)  # noqa: PLW2901
            return np.asarray(image)
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: not a {', '.join(_FORMATS)} image") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{where}: a decompression bomb: {error}") from error
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(f"{where}: the image is damaged or truncated: {error}") from error


def _refuse(where: str, image: Image.Image, convert: bool) -> None:
    """Judge the header, before any pixel is unpacked."""
    width, height = image.size
    if width * height > _PIXEL_LIMIT:
        raise InputError(f"{where}: {width} x {height} pixels, more than {_PIXEL_LIMIT:,}")
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{where}: has mode {image.mode} (more than 8 bits a colour); save it as 8-bit RGB")
    if convert:
        return
    if image.size != (32, 32):
        raise InputError(f"{where}: is {width} x {height} pixels, not 32 x 32; `convert: true` resizes")
    if image.mode != "RGB":
        raise InputError(f"{where}: has mode {image.mode}, not RGB; `convert: true` turns it into RGB")
