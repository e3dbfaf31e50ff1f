"""Where MONAI Label looks for the app."""

from monai_d3gm.label.app.app import RestorationApp

__all__ = ["RestorationApp"]
