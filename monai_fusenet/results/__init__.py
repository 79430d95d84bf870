"""What lies in an output folder: label maps, panels, the summary, masks as DICOM."""
