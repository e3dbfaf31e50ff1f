"""Where MONAI Label looks for the app."""

from monai_d3gm.label.app.restoration import RestorationApp

__all__ = ["RestorationApp"]
