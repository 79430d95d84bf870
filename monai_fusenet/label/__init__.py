"""MONAI Label app: clusters, clicks and scribbles on new kinds of images, from the first minute (extra `label`).

Nothing else in this package imports monailabel; `python -m monai_fusenet.label --studies FOLDER` starts the server.
"""
