"""A datastore for MONAI Label's own routes: counts, and the next image to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.pacs import Pacs
from monai_d3gm.label.studies import Folder, Stored

__all__ = ["Datastore"]


class Datastore:
    """Studies, as `monailabel.interfaces.app.MONAILabelApp` and its strategies ask for them.

    Args:
        studies: a folder, or a DICOMweb server.
    """

    def __init__(self, studies: Folder | Pacs) -> None:
        self.studies = studies

    def status(self) -> dict[str, Any]:
        """How many images there are, and how many have something stored under each tag."""
        stored = self._stored()
        tags = Counter(tag for each in stored.values() for tag in each)
        return {"total": len(stored), "completed": tags["final"], "label_tags": dict(tags)}

    def list_images(self) -> list[str]:
        """The ids of all images."""
        return list(self.studies.images())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: Any = None) -> list[str]:
        """The ids of the images that have nothing stored under the tag ``final``."""
        return [name for name, stored in self._stored().items() if "final" not in stored]

    def get_image_uri(self, image_id: str) -> str:
        """Where an image is found: by its id, at `/datastore/image`; paths of the server are not told."""
        return self.studies.image(image_id).id

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """The facts about an image."""
        return self.studies.info(self.studies.image(image_id))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Record more of an image."""
        self.studies.update_info(image_id, info)

    def json(self) -> dict[str, Any]:
        """All images and the files stored with them, in MONAI Label's form."""
        objects = {}
        for image in self.studies.images().values():
            with suppress(RequestError):  # it was removed meanwhile
                info, stored = self.studies.info(image), self.studies.stored(image)
                labels = {tag: {"info": each.info} for tag, each in stored.items()}
                objects[image.id] = {"image": {"info": info}, "labels": labels}
        return {"name": "monai_d3gm", "description": str(self.studies.root), "objects": objects}

    def _stored(self) -> dict[str, Mapping[str, Stored]]:
        """The files stored with each image, by id."""
        found: dict[str, Mapping[str, Stored]] = {}
        for image in self.studies.images().values():
            with suppress(RequestError):  # it was removed meanwhile
                found[image.id] = self.studies.stored(image)
        return found
