"""A MONAI Deploy application: a bundle of monai_fusenet on a DICOM series, its mask as DICOM SEG.

python deploy/app.py -m BUNDLE -i FOLDER -o RESULTS
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from holoscan.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.core.domain import Image
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.io_type import IOType
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
from pydicom.sr.codedict import codes

from monai_fusenet import __version__
from monai_fusenet.utils.arrays import places_of_classes
from monai_fusenet.utils.errors import failure_reason

UNEVEN = 0.02  # of a gap, by which the others may differ
ROLES = {"-i": "a folder of DICOM files", "-m": "a bundle, or one as TorchScript"}


class VolumeOperator(DICOMSeriesToVolumeOperator):
    """The App SDK's, with the affine of pixels that are no squares: it takes the spacings of rows and columns for each
    other, and gives a single image none.
    """

    def convert_to_image(self, studies: Any) -> Image:
        """Returns the volume of the one series that was found, (slices, rows, columns)."""
        found = [one for study in studies for one in study.selected_series]
        if len(found) != 1:
            raise ValueError(f"-i must hold one DICOM series, got {len(found)}: give each a folder of its own")
        image = super().convert_to_image(studies)
        shape = image.asnumpy().shape
        if len(shape) != 3:
            raise ValueError(f"a series must be grey slices, one in a file, got an array of the shape {shape}")
        return image

    def prepare_series(self, series: DICOMSeries) -> None:
        """Sorts the slices and finds out where they lie."""
        super().prepare_series(series)
        slices = series.get_sop_instances()
        gaps = np.diff([one.distance for one in slices]) if len(slices) > 1 else np.zeros(1)
        if np.ptp(gaps) > UNEVEN * np.median(gaps):
            raise ValueError(
                f"the slices of the series are not evenly spaced, {np.min(gaps):g} to {np.max(gaps):g} mm apart: "
                "some are missing, or there are several volumes"
            )
        if series.nifti_affine_transform is None:
            series.nifti_affine_transform, series.dicom_affine_transform = np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])
            return
        spacing = slices[0].get_native_sop_instance().PixelSpacing
        between_rows, between_columns = map(float, spacing)
        for affine in (series.nifti_affine_transform, series.dicom_affine_transform):
            affine[:3, :2] *= np.array([between_columns / between_rows, between_rows / between_columns])


class BundleOperator(MonaiBundleInferenceOperator):
    """The App SDK's, with the mask as DICOM SEG wants it: on the grid of the series, whose axis of length 1 the bundle
    drops, and its classes numbered from 1.
    """

    classes: Sequence[int] = (1,)

    def post_process(self, data: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns what the bundle leaves, the mask (1, columns, rows, slices)."""
        outputs = super().post_process(data, *args, **kwargs)
        mask = outputs["pred"]
        places = places_of_classes(mask.cpu().numpy(), self.classes)
        return {**outputs, "pred": places.reshape(1, *mask.meta["grid_shape"])}


def classes_of(bundle: Path) -> list[int]:
    """Values of the classes that a bundle tells apart."""
    config = bundle / "configs" / "inference.json"
    return (json.loads(config.read_text("utf-8")).get("classes") if config.is_file() else None) or [1]


class SegmentationApp(Application):
    """Series -> volume -> bundle -> DICOM SEG, by the operators of the App SDK."""

    def compose(self) -> None:
        """Connects the operators."""
        context: AppContext = Application.init_app_context(self.argv)
        for what, path in (("-i", context.input_path), ("-m", context.model_path)):
            if not Path(path).exists():
                raise ValueError(f"{what} must be {ROLES[what]}, but {path} does not exist")
        model = Path(context.model_path)
        if not (model / "configs" / "inference.json").is_file() and not zipfile.is_zipfile(model):
            raise ValueError(f"-m must be {ROLES['-m']}, but {model} is none")
        if model.is_dir():
            context.models = None  # a bundle, whose network the operator makes and not the SDK
        once = CountCondition(self, 1)
        loader = DICOMDataLoaderOperator(self, once, input_folder=Path(context.input_path), name="loader")
        selector = DICOMSeriesSelectorOperator(self, name="selector")
        volume = VolumeOperator(self, name="volume")
        bundle = BundleOperator(
            self,
            app_context=context,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=model,
            name="bundle",
        )
        bundle.classes = classes_of(model)
        several = len(bundle.classes) > 1
        segments = [
            SegmentDescription(
                segment_label=f"class {value}" if several else "foreground",
                segmented_property_category=codes.SCT.Tissue,
                segmented_property_type=codes.SCT.Tissue,
                algorithm_name="monai_fusenet",
                algorithm_family=codes.DCM.ArtificialIntelligence,
                algorithm_version=__version__,
            )
            for value in bundle.classes
        ]
        writer = DICOMSegmentationWriterOperator(
            self, segment_descriptions=segments, output_folder=Path(context.output_path), name="writer"
        )
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, bundle, {("image", "image")})
        self.add_flow(bundle, writer, {("pred", "seg_image")})
        self.add_flow(selector, writer, {("study_selected_series_list", "study_selected_series_list")})


def main() -> None:
    """Runs the application; what goes wrong is told in one line, with exit status 1."""
    try:
        SegmentationApp().run()
    except Exception as error:  # what the operators raise, whatever it is
        sys.exit(f"error: {failure_reason(error)}")


if __name__ == "__main__":
    main()
