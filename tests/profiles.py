"""Colour profiles (ICC) for tests: sRGB's, and one of a space whose red is sRGB's blue."""

from __future__ import annotations

from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = (
    SRGB.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    .replace("sRGB".encode("utf-16-be"), "else".encode("utf-16-be"))  # its name, by which sRGB is known
)  # fmt: skip
