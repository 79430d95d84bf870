"""MONAI Label app: clusters, clicks and scribbles for new kinds of images without training first (extra `label`).

Nothing else in this package imports monailabel; `python -m monai_fusenet.label --studies FOLDER` starts the server.
"""
