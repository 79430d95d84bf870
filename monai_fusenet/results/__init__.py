"""The files of an output folder: label maps, panels, the summary, masks as DICOM."""

from monai_fusenet.results.dicom import (
    UnfitSourceError,
    check_dicom_output,
    dicom_mask_path,
    is_dicom,
    remove_dicom_masks,
    write_dicom_mask,
)
from monai_fusenet.results.image import ImageFiles, ImageResult
from monai_fusenet.results.layout import placement_note, result_path, write_label_map
from monai_fusenet.results.panel import PanelRow, draw_panels
from monai_fusenet.results.summary import SUMMARY_COLUMNS, Summary, describe_choice, read_summary

__all__ = [
    "SUMMARY_COLUMNS",
    "ImageFiles",
    "ImageResult",
    "PanelRow",
    "Summary",
    "UnfitSourceError",
    "check_dicom_output",
    "describe_choice",
    "dicom_mask_path",
    "draw_panels",
    "is_dicom",
    "placement_note",
    "read_summary",
    "remove_dicom_masks",
    "result_path",
    "write_dicom_mask",
    "write_label_map",
]
