"""What MONAI Label's own routes ask a datastore: counts, and the next image to look at."""

from __future__ import annotations

from collections import Counter
from typing import Any

from monai_d3gm.label.pacs import Pacs
from monai_d3gm.label.studies import Folder

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
        tags = Counter(tag for name in self.list_images() for tag in self.studies.stored(name))
        return {"total": len(self.list_images()), "completed": tags["final"], "label_tags": dict(tags)}

    def list_images(self) -> list[str]:
        """The ids of all images."""
        return list(self.studies.images())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: Any = None) -> list[str]:
        """The ids of the images that have nothing stored under the tag ``final``."""
        return [name for name in self.list_images() if "final" not in self.studies.stored(name)]

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image."""
        return self.studies.info(self.studies.image(image_id))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Record more of an image."""
        self.studies.update_info(image_id, info)

    def json(self) -> dict[str, Any]:
        """All images with what is stored with them, in MONAI Label's form."""
        objects = {
            image.id: {
                "image": {"info": self.studies.info(image)},
                "labels": {tag: {"info": stored.info} for tag, stored in self.studies.stored(image.id).items()},
            }
            for image in self.studies.images().values()
        }
        return {"name": "monai_d3gm", "description": str(self.studies.root), "objects": objects}
