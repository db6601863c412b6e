"""Decodes image files to the size and colours that the source declares."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from jukebox_orch.contract import InputError
from jukebox_orch.projects.image_processor.shapes import CHANNELS, Shape

if TYPE_CHECKING:
    from PIL import Image

FILE_LIMIT = 64 << 20
"""Maximum size of an image file in bytes."""

# Only well-maintained decoders: by default, Pillow would also pass files to Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_PIXEL_LIMIT = 64_000_000
# Pillow's name of the colours, by number of channels.
_MODES = {CHANNELS["rgb"]: "RGB", CHANNELS["grey"]: "L"}


def decode(where: str, content: bytes, shape: Shape, convert: bool) -> np.ndarray:
    """Decode one image to uint8 of `shape`.

    Args:
        where: name of the file in messages.
        convert: resize other sizes (bilinear), convert other modes to RGB or grey; transparent pixels become white.

    Raises:
        InputError: not an image, damaged, or of another size or mode while `convert` is off.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise InputError(f"{where}: has zero bytes")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_header(where, image, shape, convert)
            image.load()
            if convert:
                height, width, channels = shape
                image = _over_white(ImageOps.exif_transpose(image))  # noqa: PLW2901 - same image
                image = image.convert(_MODES[channels])  # noqa: PLW2901
                image = image.resize((width, height), Image.Resampling.BILINEAR)  # noqa: PLW2901
            return np.asarray(image).reshape(shape)
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


def _check_header(where: str, image: Image.Image, shape: Shape, convert: bool) -> None:
    """Check size and mode before any pixel is decoded."""
    width, height = image.size
    if width * height > _PIXEL_LIMIT:
        raise InputError(f"{where}: has {width} x {height} pixels, more than {_PIXEL_LIMIT:,}")
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{where}: has mode {image.mode} (more than 8 bits a colour); save it as 8-bit RGB")
    if convert:
        return
    if (height, width) != shape[:2]:
        raise InputError(
            f"{where}: is {width} x {height} pixels, not {shape[1]} x {shape[0]}; `convert: true` resizes it, "
            "or set source.width and source.height"
        )
    mode = _MODES[shape[2]]
    if image.mode != mode:
        also = ", or set source.color" if image.mode in _MODES.values() else ""
        raise InputError(
            f"{where}: has mode {image.mode}, not {mode}; `convert: true` converts it to {mode}{also}"
        )
