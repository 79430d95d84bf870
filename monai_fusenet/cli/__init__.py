"""The command `monai-fusenet`: thin over the bundle, whose line it prints and runs."""
