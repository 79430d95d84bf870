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


@pytest.fixture
def write_dicom_series():
    def write(folder, volume, uid="1.2.3.4", spacing=(0.5, 0.7, 2.0), origin=(10.0, 20.0, 30.0), tilt=0.0):
        """One file per slice of a (Z, Y, X) int16 volume, named against the order of the slices.

        A tilted gantry shifts each slice by `tilt` mm along -Y.
        """
        import itk  # here: tests of networks, losses and fits run without it

        folder.mkdir(parents=True, exist_ok=True)
        for index, plane in enumerate(volume):
            image = itk.image_from_array(plane[None])
            image.SetSpacing(spacing)
            position = [origin[0], origin[1] - index * tilt, origin[2] + index * spacing[2]]
            image.SetOrigin(position)
            header = image.GetMetaDataDictionary()
            header["0008|0060"] = "CT"
            header["0008|0018"] = f"{uid}.{index + 1}"
            header["0020|000d"] = "1.2.3"
            header["0020|000e"] = uid
            header["0020|0013"] = str(index + 1)
            header["0020|0032"] = "\\".join(map(str, position))
            header["0020|0037"] = "1\\0\\0\\0\\1\\0"
            header["0018|0050"] = str(spacing[2])
            dicom = itk.GDCMImageIO.New()
            dicom.KeepOriginalUIDOn()
            path = str(folder / f"slice{len(volume) - index:02d}.dcm")
            itk.ImageFileWriter.New(image, ImageIO=dicom, FileName=path, UseInputMetaDataDictionary=True).Update()

    return write
