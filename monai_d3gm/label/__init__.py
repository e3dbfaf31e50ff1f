"""The bundles behind a MONAI Label server.

`monai_d3gm.label.app` is the app's folder, as MONAI Label wants one, with the only modules that import `monailabel`.
Beside it are the server's checks (`environment`, `parameters`, `cost`) and a client (`client`).
"""
