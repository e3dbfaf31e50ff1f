"""UIDs that are functions of the sources of an object."""

from __future__ import annotations

import json
import uuid

from pydicom.uid import UID

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "monai_d3gm.data.formats.dicom")


def derived_uid(*sources: str) -> UID:
    """Return the UID that belongs to these texts, in this order: a name-based UUID under 2.25 (PS3.5 B.2).

    Example:
        >>> derived_uid("1.2.3", "restored") == derived_uid("1.2.3", "restored")
        True
        >>> derived_uid("1.2.3", "restored") == derived_uid("1.2.3restored")
        False
    """
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(sources)).int}")


IMPLEMENTATION_CLASS_UID = derived_uid("implementation class")
