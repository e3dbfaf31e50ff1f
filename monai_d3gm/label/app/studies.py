"""The datastore: MONAI Label's folder of studies, for several requests at once."""

from __future__ import annotations

import re
import threading
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

__all__ = ["Studies"]

_NAME = re.compile(r"[^/\\\0]+")


class Studies(LocalDatastore):
    """A folder of studies that requests and the folder's watcher use one after the other.

    MONAI Label's own drops every image for a moment while it looks through the folder, and loses a label that is saved
    meanwhile. Ids and tags are names of files, and none leads out of the folder.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._guard = threading.RLock()
        super().__init__(*arguments, **options)

    def refresh(self) -> None:
        """Look through the folder again."""
        with self._guard:
            super().refresh()

    def get_image_uri(self, image_id: str) -> str:
        """The path of an image; empty where there is none."""
        with self._guard:
            return str(super().get_image_uri(image_id))

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The path of what is stored with an image under a tag; empty where there is none."""
        with self._guard:
            return str(super().get_label_uri(label_id, label_tag))

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Put a file into the folder as an image."""
        _check_name("image", image_id)
        with self._guard:
            return str(super().add_image(image_id, image_filename, image_info))

    def remove_image(self, image_id: str) -> None:
        """Remove an image and what is stored with it."""
        with self._guard:
            super().remove_image(image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a file with an image under a tag."""
        _check_name("tag", label_tag)
        with self._guard:
            return str(super().save_label(image_id, label_filename, label_tag, label_info))

    def add_new_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> None:
        """Put a file into the folder as an image whose id is not taken.

        Raises:
            HTTPException: 409, it is taken.
        """
        with self._guard:
            self.check_new(image_id)
            self.add_image(image_id, image_filename, image_info)

    def check_new(self, image_id: str) -> None:
        """Refuse an id that is taken."""
        if self.get_image_uri(image_id):
            raise HTTPException(409, f"image {image_id!r} is in the datastore; remove it, or rename the input.")


def _check_name(argument: str, name: str) -> None:
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise HTTPException(400, f"{argument} is {name!r}; accepted: a name without slashes that begins with no dot.")
