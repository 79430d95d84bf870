import os
from pathlib import Path

import pytest
import torch

# Sums differ in their last bits with the number of threads: one here, and in the processes that tests start.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder that holds `data/` and `reference/`: real images with masks, which are no part of the project."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("MONAI_FUSENET_SHARED") or default)
    if not (folder / "data").is_dir():
        pytest.skip(f"needs real images in {folder / 'data'}; MONAI_FUSENET_SHARED names another folder")
    return folder
