"""From an image reference to the folders that a container's overlays are made of."""

from __future__ import annotations

import os
from dataclasses import dataclass

from orchestrator.errors import LaunchError
from orchestrator.images import host


@dataclass(frozen=True, slots=True)
class Lower:
    """Read-only folders (top first) that are seen at ``target`` of the container."""

    target: str
    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """A resolved image; ``lowers`` in the order in which they must be mounted."""

    reference: str
    lowers: tuple[Lower, ...]


def resolve(reference: str, images_dir: str) -> Image:
    """The image that ``host`` or ``dir:/path`` names. May write to ``images_dir``; call it off the event loop.

    :raises LaunchError: when it does not exist or is of an unknown form.
    """
    if reference == "host":
        try:
            skeleton = host.skeleton(images_dir)
        except OSError as error:
            raise LaunchError(
                'cannot use image "host"', f"its files cannot be copied to {images_dir}: {error.strerror}",
                "make room there, or choose another ORCH_STATE_DIR",
            ) from None  # fmt: skip
        return Image(reference, (Lower("/", (skeleton,)), *(Lower(path, (path,)) for path in host.folders())))
    kind, _, path = reference.partition(":")
    if kind != "dir":
        raise LaunchError(f'cannot use image "{reference}"', "unknown form", 'allowed: "host", "dir:PATH"')
    if not os.path.isdir(path):
        cause = "is not a folder" if os.path.exists(path) else "does not exist"
        raise LaunchError(
            f'cannot use image "{reference}"', f"lower folder {path} {cause}", "make it, or correct image"
        )
    return Image(reference, (Lower("/", (os.path.realpath(path),)),))
