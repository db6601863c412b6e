"""Decodes image files to 32 x 32 RGB."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from jukebox_orch.contract import InputError

if TYPE_CHECKING:
    from PIL import Image

FILE_LIMIT = 64 << 20
"""Maximum size of an image file in bytes."""

# Only well-maintained decoders: by default, Pillow would also pass files to Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_PIXEL_LIMIT = 64_000_000


def decode(where: str, content: bytes, convert: bool) -> np.ndarray:
    """Decode one image to uint8 (32, 32, 3).

    Args:
        where: name of the file in messages.
        convert: resize other sizes (bilinear) and convert other modes to RGB; transparent pixels show white.

    Raises:
        InputError: not an image, damaged, or of another size or mode while `convert` is off.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise InputError(f"{where}: has zero bytes")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_header(where, image, convert)
            image.load()
            if convert:
                image = _over_white(ImageOps.exif_transpose(image)).convert("RGB")  # noqa: PLW2901 - same image
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


def _over_white(image: Image.Image) -> Image.Image:
    """Return an opaque image: a transparent one composited over white, as on a page; others unchanged."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    page = Image.new("RGB", image.size, "white")
    visible = image.convert("RGBA")
    page.paste(visible, mask=visible)
    return page


def _check_header(where: str, image: Image.Image, convert: bool) -> None:
    """Check size and mode before any pixel is decoded."""
    width, height = image.size
    if width * height > _PIXEL_LIMIT:
        raise InputError(f"{where}: has {width} x {height} pixels, more than {_PIXEL_LIMIT:,}")
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{where}: has mode {image.mode} (more than 8 bits a colour); save it as 8-bit RGB")
    if convert:
        return
    if image.size != (32, 32):
        raise InputError(f"{where}: is {width} x {height} pixels, not 32 x 32; `convert: true` resizes it")
    if image.mode != "RGB":
        raise InputError(f"{where}: has mode {image.mode}, not RGB; `convert: true` converts it to RGB")
