"""Colour profiles (ICC): photographs of wide spaces, as telephones take them, in sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from PIL import Image


def to_srgb(image: Image.Image) -> Image.Image:
    """A decoded picture in sRGB where it carries the profile of another RGB space; else itself.

    A profile that is damaged, or of grey or printing colours, is passed over, as are pictures whose colours are not RGB.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode not in ("RGB", "RGBA", "P", "PA"):
        return image
    # a colour that stands for transparency would not after the conversion
    if "transparency" in image.info or image.mode == "PA":
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    transform = _transform(profile, image.mode)
    return image if transform is None else transform.apply(image)


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> Any:
    """What converts to sRGB; None where nothing should or can."""
    from PIL import ImageCms

    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(found):
            return None
        return ImageCms.buildTransform(found, ImageCms.createProfile("sRGB"), mode, mode)
    except (ImportError, OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None  # ImportError: a Pillow that was built without LittleCMS
