"""The bundles behind a MONAI Label server.

`monai_d3gm.label.app` is the app's folder, as MONAI Label wants one, with the only modules that import `monailabel`.
Beside it are what the server checks (`environment`, `parameters`, `memory`) and a client (`client`).
"""
