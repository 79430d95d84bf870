"""The command `monai-fusenet`: a thin layer that prints and runs the command line of the bundle."""
