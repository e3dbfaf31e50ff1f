"""The MONAI Label app: its folder, tasks, datastore and server. Needs the environment of ``constraints-label.txt``."""
