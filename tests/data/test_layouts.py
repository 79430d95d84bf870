"""Label maps as data sets and programs name them: whose mask each is, and that none is an image."""

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from datalist_tools import lay_out, pairs

from monai_fusenet.data import IMAGE_SUFFIXES, find_images, unmatched_masks
from monai_fusenet.data.datalist import unique_names


def strays(folder: Path, **options) -> list[str]:
    return unmatched_masks(folder, find_images(folder, **options))


# Masks beside their images


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        # 3D Slicer
        ("case.nii.gz", "case.seg.nrrd"),
        ("case.nrrd", "case.seg.nrrd"),
        ("case.nii.gz", "case.seg.nii.gz"),
        ("case.nii.gz", "case-label.nii.gz"),
        ("case.nii.gz", "case.label.nii.gz"),
        ("case.nrrd", "case-labelmap.nrrd"),
        ("case.nrrd", "case_label.nrrd"),
        ("case.nrrd", "case Segmentation.nrrd"),
        ("case.nrrd", "case Segmentation.seg.nrrd"),
        ("case.nrrd", "case-Segmentation-label.nrrd"),
        ("case.nrrd", "case-Segment_1-label.nrrd"),
        ("CTChest.nrrd", "Segmentation.seg.nrrd"),
        ("p1/CTChest.nrrd", "p1/Segmentation-Segment_1-label.nrrd"),
        ("p1/CTChest.nrrd", "p1/Segmentation-liver-label.nrrd"),
        ("CTChest.nrrd", "Segmentation-label.nrrd"),
        # ITK-SNAP, MITK and others
        ("case.nrrd", "case_labelset.nrrd"),
        ("case.mha", "case-seg.nii"),
        ("case.mha", "CASE_SEG.nii"),
        ("case.mha", "case_Segmentation.nii"),
        ("case.png", "case_mask (1).png"),
        ("case.png", "case.mask.png"),
        ("case.png", "case_masks.png"),
        ("case.png", "case_labels.png"),
        ("case.png", "case_ground_truth.png"),
        ("case.png", "case GroundTruth.png"),
        ("case.png", "Case_mask.png"),
        ("my case.png", "my_case_mask.png"),
        # LiTS, BTCV, SLIVER
        ("volume-0.nii", "segmentation-0.nii"),
        ("img0001.nii.gz", "label0001.nii.gz"),
        ("liver-orig001.mhd", "liver-seg001.mhd"),
        # PyRadiomics, MM-WHS
        ("brain1_image.nii.gz", "brain1_label.nii.gz"),
        ("ct_train_1001_image.nii.gz", "ct_train_1001_label.nii.gz"),
        # ACDC, CAMUS, PROMISE12, GlaS, HC18, VerSe
        ("patient001_frame01.nii.gz", "patient001_frame01_gt.nii.gz"),
        ("patient0001_2CH_ED.mhd", "patient0001_2CH_ED_gt.mhd"),
        ("Case00.mhd", "Case00_segmentation.mhd"),
        ("train_1.bmp", "train_1_anno.bmp"),
        ("000_HC.png", "000_HC_Annotation.png"),
        ("sub-verse004_ct.nii.gz", "sub-verse004_seg-vert_msk.nii.gz"),
        # cellpose
        ("001_img.png", "001_masks.png"),
        ("001_img.png", "001_img_cp_masks.png"),
        # ilastik, Fiji, StarDist
        ("a.png", "a_Simple Segmentation.png"),
        ("a.tif", "Mask of a.tif"),
        ("cell.tif", "cell_lbl.tif"),
        # CHASE
        ("Image_01L.jpg", "Image_01L_1stHO.png"),
        # a word at the beginning
        ("image_007.png", "mask_007.png"),
        ("007.png", "gt_007.png"),
        ("img_a.png", "label_a.png"),
        # words alone
        ("ct.nii.gz", "segmentation.nii.gz"),
        ("image.png", "mask.png"),
        ("image.png", "gt.png"),
        ("case_1/image.nii", "case_1/label_liver.nii"),
        ("p1/orig.nii", "p1/aseg.nii"),
        ("CTChest.nrrd", "Segmentation_1.seg.nrrd"),
        ("CTChest.nrrd", "LabelMapVolume.nrrd"),
        # more after the word
        *(
            ("case.png", f"case{ending}.png")
            for ending in ("_mask_final", "_mask_v1", "_mask_corrected", "_mask_left", "_seg_L", "_seg-JS", "Mask")
        ),
        ("case.png", "case_label_image.png"),
        ("caseA.png", "caseASeg.png"),
        # of persons
        ("t2.nii.gz", "t2_anatomy_reader1.nii.gz"),
        ("b.png", "b_annotator2.png"),
        # FreeSurfer, FSL
        ("a.nii", "a_synthseg.nii"),
        ("a_brain.nii", "a_brain_pveseg.nii"),
        # OME
        ("c.ome.tif", "c_mask.tif"),
        ("c.tif", "c_mask.ome.tif"),
        ("c.ome.tif", "masks/c.tif"),
    ],
)
def test_a_label_map_beside_its_image_is_its_mask(tmp_path, image, mask):
    lay_out(tmp_path, image, mask)
    assert pairs(tmp_path) == {image: [mask]}
    assert strays(tmp_path) == []


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".NII.GZ", ".Png"])
@pytest.mark.parametrize("ending", ["_mask", "-label", ".seg", "_gt"])
def test_label_maps_of_every_suffix(tmp_path, suffix, ending):
    lay_out(tmp_path, "case.nii.gz", f"case{ending}{suffix}")
    assert pairs(tmp_path) == {"case.nii.gz": [f"case{ending}{suffix}"]}


@pytest.mark.parametrize(
    "name",
    [
        *("labelled_cells", "GT-R", "gtr", "a_mugshot", "masked", "unmask", "seg-way", "annotated", "label a"),
        *("manualmask", "manual", "b_mask_left", "other_label-free", "other_masked_1", "othermask", "reader1"),
    ],
)
def test_only_whole_words_make_a_label_map(tmp_path, name):
    lay_out(tmp_path, f"{name}.png", "other.png")
    assert pairs(tmp_path) == {f"{name}.png": [], "other.png": []}


def test_one_mask_per_lesion_and_numbers_of_images(tmp_path):
    lay_out(tmp_path, "a.png", "a_mask.png", "a_mask_1.png", "a_mask_2.png", "image2.png", "mask2.png")
    assert pairs(tmp_path) == {"a.png": ["a_mask.png", "a_mask_1.png", "a_mask_2.png"], "image2.png": ["mask2.png"]}


def test_a_mask_of_one_sequence_is_not_that_of_another(tmp_path):
    lay_out(tmp_path, "p1/t1.nii", "p1/t2_seg.nii", "p2/x_t1.nii", "p2/x_t2_seg.nii")
    assert pairs(tmp_path) == {"p1/t1.nii": [], "p2/x_t1.nii": []}
    assert strays(tmp_path) == ["p1/t2_seg.nii", "p2/x_t2_seg.nii"]


def test_a_mask_that_may_be_of_two_images_is_of_none(tmp_path):
    lay_out(tmp_path, "ct_1.nii", "mr_1.nii", "segmentation-1.nii", "a.nrrd", "b.nrrd", "Segmentation.seg.nrrd")
    assert set(map(tuple, pairs(tmp_path).values())) == {()}
    assert strays(tmp_path) == ["Segmentation.seg.nrrd", "segmentation-1.nii"]


def test_a_mask_of_all_sequences_is_no_image(tmp_path):
    lay_out(tmp_path, "a_t1.nii", "a_t2.nii", "a_seg_v2.nii")
    assert pairs(tmp_path) == {"a_t1.nii": [], "a_t2.nii": []}
    assert strays(tmp_path) == ["a_seg_v2.nii"]
    assert pairs(tmp_path, sequences=["_t1", "_t2"]) == {"a": ["a_seg_v2.nii"]}


def test_the_only_image_of_a_folder_has_no_masks_of_missing_images(tmp_path):
    lay_out(tmp_path, "images/foo.png", "masks/bar.png", "label0001.png", "label0002.png")
    assert pairs(tmp_path) == {"images/foo.png": []}
    assert strays(tmp_path) == ["label0001.png", "label0002.png", "masks/bar.png"]


def test_sequences_that_two_readers_marked(tmp_path):
    """Prostate158."""
    lay_out(tmp_path, *(f"020/{name}.nii.gz" for name in ("t2", "adc", "dwi", "adc_tumor_reader1", "t2_tumor_reader2")))
    lay_out(tmp_path, *(f"020/t2_{part}_reader1.nii.gz" for part in ("anatomy", "tumor")))
    assert pairs(tmp_path) == {
        "020/adc.nii.gz": ["020/adc_tumor_reader1.nii.gz"],
        "020/dwi.nii.gz": [],
        "020/t2.nii.gz": ["020/t2_anatomy_reader1.nii.gz", "020/t2_tumor_reader1.nii.gz"],
    }
    assert strays(tmp_path) == []


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/images/img_001.png", "train/masks/img_002.png"),
        ("train/images/img_001.png", "train/masks/002_mask.png"),
        ("p/001.png", "p/labels/002.png"),
        ("p1/2020.nii", "p1/segmentations/2021.nii"),
    ],
)
def test_a_mask_of_the_next_image_is_not_that_of_the_only_one(tmp_path, image, mask):
    lay_out(tmp_path, image, mask)
    assert pairs(tmp_path) == {image: []}
    assert strays(tmp_path) == [mask]


# Folders


@pytest.mark.parametrize(
    "folder",
    [
        *("mask", "Masks", "label", "labels", "labelsTr", "seg", "segmentation", "Segmentations", "GT", "gt"),
        *("groundtruth", "Ground Truth", "ground_truth", "annotations", "1st_manual", "manual1", "SegmentationClass"),
    ],
)
@pytest.mark.parametrize("above", ["", "train/"])
def test_folders_of_masks(tmp_path, folder, above):
    lay_out(tmp_path, f"{above}Original/1.tif", f"{above}Original/2.tif", f"{above}{folder}/1.tif")
    assert pairs(tmp_path) == {f"{above}Original/1.tif": [f"{above}{folder}/1.tif"], f"{above}Original/2.tif": []}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        *(("train", "train_masks"), ("train_images", "train_masks"), ("images_val", "labels_val")),
        *(("img_dir/val", "ann_dir/val"), ("images", "lesion_masks"), ("Tissue Images", "Binary masks")),
        ("1. Original Images/a. Set", "2. All Segmentation Groundtruths/a. Set"),
    ],
)
def test_folders_of_two_words(tmp_path, images, masks):
    lay_out(tmp_path, f"{images}/1.png", f"{masks}/1.png", f"{masks}/2_mask.png", f"{images}/2.png")
    assert pairs(tmp_path) == {f"{images}/1.png": [f"{masks}/1.png"], f"{images}/2.png": [f"{masks}/2_mask.png"]}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        *(("ct_scans", "Lung_Mask"), ("ct_scans", "infection_mask"), ("ct", "LungMask"), ("rp_im", "rp_msk")),
        *(("train", "trainannot"), ("data/ct/p1", "data/lung mask/p1"), (".", "lung_mask"), ("CT", "CT_gt")),
    ],
)
def test_folders_named_for_masks_beside_images_of_the_same_stems(tmp_path, images, masks):
    images = "" if images == "." else f"{images}/"
    lay_out(tmp_path, f"{images}1.nii", f"{images}2.nii", f"{masks}/1.nii", f"{masks}/2_mask.nii", f"{masks}/3.nii")
    assert pairs(tmp_path) == {f"{images}1.nii": [f"{masks}/1.nii"], f"{images}2.nii": [f"{masks}/2_mask.nii"]}
    assert strays(tmp_path) == [f"{masks}/3.nii"]


def test_a_folder_of_masks_beside_two_of_images_of_one_stem_is_of_none(tmp_path):
    lay_out(tmp_path, "A_scans/1.png", "B_scans/1.png", "A_lung_mask/1.png")
    assert pairs(tmp_path) == {"A_scans/1.png": [], "B_scans/1.png": []}
    assert strays(tmp_path) == ["A_lung_mask/1.png"]


def test_luna16(tmp_path):
    lay_out(tmp_path, *(f"{folder}/1.3.{n}.mhd" for n in range(3) for folder in (f"subset{n}", "seg-lungs-LUNA16")))
    assert pairs(tmp_path) == {f"subset{n}/1.3.{n}.mhd": [f"seg-lungs-LUNA16/1.3.{n}.mhd"] for n in range(3)}


@pytest.mark.parametrize(
    ("folder", "other"),
    [
        *(("label_free", "fluorescence"), ("GT-R", "BMW"), ("with_mask", "plain"), ("segway", "bus")),
        *(
            ("masked", "raw"),
            ("seg_pred", "train"),
            ("mask_pred", "train"),
            ("segmentation results", "ct"),
            ("with_mask", "without_mask"),
            ("unmask", "x"),
            ("gtr", "x"),
        ),
    ],
)
def test_folders_that_are_not_named_for_masks(tmp_path, folder, other):
    lay_out(tmp_path, f"{folder}/1.png", f"{other}/1.png")
    assert pairs(tmp_path) == {f"{folder}/1.png": [], f"{other}/1.png": []}


def test_a_folder_called_after_its_topic_holds_images(tmp_path):
    lay_out(tmp_path, "brain segmentation/1.png", "with_masks/3.png", "seg/images/2.png", "seg/masks/2.png")
    assert pairs(tmp_path) == {
        "brain segmentation/1.png": [],
        "seg/images/2.png": ["seg/masks/2.png"],
        "with_masks/3.png": [],
    }


@pytest.mark.parametrize("name", ["masks", "labels", "seg", "labels/final"])
def test_the_name_of_the_dataset_folder_means_nothing(tmp_path, name):
    lay_out(tmp_path / name, "1.png", "1_mask.png")
    assert pairs(tmp_path / name) == {"1.png": ["1_mask.png"]}


def test_kits(tmp_path):
    lay_out(
        tmp_path,
        *("case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz"),
        *(
            f"case_00000/instances/{part}_instance-1_annotation-{n}.nii.gz"
            for part in ("kidney", "tumor")
            for n in "12"
        ),
        *("case_00001/imaging.nii.gz", "case_00002/imaging.nii.gz"),
        *(f"case_00001/aggregated_{kind}_seg.nii.gz" for kind in ("AND", "MAJ", "OR")),
        *(f"case_00002/segmentations/{part}_instance-1_annotation-{n}.nii.gz" for part in "kt" for n in "12"),
    )
    assert pairs(tmp_path) == {
        "case_00000/imaging.nii.gz": ["case_00000/segmentation.nii.gz"],
        "case_00001/imaging.nii.gz": ["case_00001/aggregated_MAJ_seg.nii.gz"],
        "case_00002/imaging.nii.gz": [
            f"case_00002/segmentations/{part}_instance-1_annotation-1.nii.gz" for part in "kt"
        ],
    }
    assert strays(tmp_path) == []


@pytest.mark.parametrize("above", ["", "s0011/", "data/s0011/"])
def test_totalsegmentator(tmp_path, above):
    masks = [f"{above}segmentations/{organ}.nii.gz" for organ in ("liver", "rib_left_1", "spleen")]
    lay_out(tmp_path, f"{above}ct.nii.gz", *masks)
    assert pairs(tmp_path) == {f"{above}ct.nii.gz": masks}
    assert strays(tmp_path) == []


def test_nuclei_of_the_data_science_bowl(tmp_path):
    lay_out(
        tmp_path, *(f"train/{case}/{file}.png" for case in "ab" for file in (f"images/{case}", "masks/7", "masks/9"))
    )
    assert pairs(tmp_path) == {
        f"train/{case}/images/{case}.png": [f"train/{case}/masks/7.png", f"train/{case}/masks/9.png"] for case in "ab"
    }


def test_masks_of_missing_images_are_not_those_of_the_case(tmp_path):
    lay_out(tmp_path, "train/images/1.png", "train/masks/1.png", "train/masks/2.png")
    assert pairs(tmp_path) == {"train/images/1.png": ["train/masks/1.png"]}
    assert strays(tmp_path) == ["train/masks/2.png"]


def test_drive(tmp_path):
    """Its folder `mask` holds fields of view; the test images have two observers."""
    lay_out(
        tmp_path,
        *(
            "training/images/21_training.tif",
            "training/1st_manual/21_manual1.png",
            "training/mask/21_training_mask.png",
        ),
        *("test/images/01_test.tif", "test/1st_manual/01_manual1.png", "test/2nd_manual/01_manual2.png"),
        "test/mask/01_test_mask.png",
    )
    assert pairs(tmp_path) == {
        "test/images/01_test.tif": ["test/1st_manual/01_manual1.png"],
        "training/images/21_training.tif": ["training/1st_manual/21_manual1.png"],
    }
    assert strays(tmp_path) == []
    (tmp_path / "test/1st_manual/01_manual1.png").unlink()
    (tmp_path / "test/2nd_manual/01_manual2.png").unlink()
    assert pairs(tmp_path)["test/images/01_test.tif"] == []
    assert strays(tmp_path) == []


def test_a_folder_mask_is_a_field_of_view_only_beside_observers(tmp_path):
    lay_out(tmp_path, "HRF/images/01_dr.JPG", "HRF/manual1/01_dr.tif", "HRF/mask/01_dr_mask.tif")
    lay_out(tmp_path, "Shenzhen/CXR_png/1.png", "Shenzhen/mask/1_mask.png")
    assert pairs(tmp_path) == {
        "HRF/images/01_dr.JPG": ["HRF/manual1/01_dr.tif"],
        "Shenzhen/CXR_png/1.png": ["Shenzhen/mask/1_mask.png"],
    }


def test_cellpose(tmp_path):
    """What it made counts where there is no truth; flows and outlines are neither image nor mask."""
    lay_out(tmp_path, "3.tif", "3_cp_masks.tif", "3_flows.tif", "3_cp_outlines.png", "3_masks.tif", "3_seg.npy")
    assert pairs(tmp_path) == {"3.tif": ["3_masks.tif"]}
    assert strays(tmp_path) == []


def test_masks_of_3dircadb_are_no_images(tmp_path):
    lay_out(tmp_path, "1/PATIENT_DICOM/image_0.dcm", "1/MASKS_DICOM/liver/image_0.dcm")
    assert pairs(tmp_path) == {"1/PATIENT_DICOM/image_0.dcm": []}
    assert strays(tmp_path) == ["1/MASKS_DICOM/liver/image_0.dcm"]


def test_a_subject_of_bids_in_folders_of_its_kinds(tmp_path):
    image, mask = "sub-1/ses-1/dwi/sub-1_ses-1_dwi.nii.gz", "derivatives/sub-1/ses-1/sub-1_ses-1_msk.nii.gz"
    lay_out(tmp_path, image, mask)
    assert pairs(tmp_path) == {image: [mask]}


def test_the_first_of_two_observers_counts(tmp_path):
    lay_out(tmp_path, "Image_01L.jpg", "Image_01L_1stHO.png", "Image_01L_2ndHO.png", "b.png", "b_mask_reader2.png")
    lay_out(tmp_path, "b_mask_reader10.png")
    assert pairs(tmp_path) == {"Image_01L.jpg": ["Image_01L_1stHO.png"], "b.png": ["b_mask_reader2.png"]}


def test_brats(tmp_path):
    files = [f"BraTS20_001/BraTS20_001_{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2", "seg")]
    lay_out(tmp_path, *files)
    assert pairs(tmp_path, sequences=["_t1", "_flair"]) == {"BraTS20_001/BraTS20_001": [files[-1]]}
    assert strays(tmp_path, sequences=["_t1", "_flair"]) == []
    assert list(pairs(tmp_path)) == sorted(files[:-1])
    for file in files[1:-1]:
        (tmp_path / file).unlink()
    assert pairs(tmp_path) == {files[0]: [files[-1]]}


@pytest.mark.parametrize("mask", ["segmentation.nii", "t2_seg.nii", "segmentations/liver.nii", "p1.seg.nrrd"])
def test_a_mask_in_the_folder_of_its_sequences(tmp_path, mask):
    lay_out(tmp_path, "p1/t1.nii", "p1/t2.nii", "p2/t1.nii", "p2/t2.nii", f"p1/{mask}")
    assert pairs(tmp_path, sequences=["t1", "t2"]) == {"p1": [f"p1/{mask}"], "p2": []}
    assert strays(tmp_path, sequences=["t1", "t2"]) == []


def test_a_mask_in_the_folder_of_its_series(tmp_path, write_dicom_series):
    for name, uid in (("p1", "1.2.3"), ("p2", "1.2.4")):
        write_dicom_series(tmp_path / name, np.zeros((3, 6, 5), np.int16), uid=uid)
    lay_out(tmp_path, "p1/Segmentation.seg.nrrd", "p2/masks/liver.nii.gz")
    assert pairs(tmp_path) == {"p1": ["p1/Segmentation.seg.nrrd"], "p2": ["p2/masks/liver.nii.gz"]}
    assert strays(tmp_path) == []


def test_bids(tmp_path):
    anat, derived = "sub-01/ses-2/anat/sub-01_ses-2", "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2"
    lay_out(
        tmp_path,
        f"{anat}_T1w.nii.gz",
        f"{derived}_dseg.nii.gz",
        f"{derived}_desc-brain_mask.nii.gz",
        f"{derived}_label-GM_probseg.nii.gz",
        f"{derived}_space-MNI152_dseg.nii.gz",
        "derivatives/labels/sub-02/anat/sub-02_T1w_lesion.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
    )
    assert pairs(tmp_path) == {
        f"{anat}_T1w.nii.gz": [f"{derived}_dseg.nii.gz"],
        "sub-02/anat/sub-02_T1w.nii.gz": ["derivatives/labels/sub-02/anat/sub-02_T1w_lesion.nii.gz"],
    }
    assert strays(tmp_path) == [f"{derived}_space-MNI152_dseg.nii.gz"]


def test_labels_of_a_label_server(tmp_path):
    lay_out(
        tmp_path,
        *("a.nii.gz", "b.dcm", "c.nrrd", "datastore_v2.json", ".lock"),
        *("labels/final/a.nii.gz", "labels/final/b.nii.gz", "labels/final/c.seg.nrrd"),
        *("labels/original/a.nii.gz", "labels/original/c.nii.gz", "labels/a.nii.gz"),
    )
    assert pairs(tmp_path) == {
        "a.nii.gz": ["labels/final/a.nii.gz"],
        "b.dcm": ["labels/final/b.nii.gz"],
        "c.nrrd": ["labels/final/c.seg.nrrd"],
    }
    assert strays(tmp_path) == []


def test_labels_of_an_older_label_server(tmp_path):
    lay_out(tmp_path, "a.nii.gz", "b.nii.gz", "labels/a.nrrd")
    assert pairs(tmp_path) == {"a.nii.gz": ["labels/a.nrrd"], "b.nii.gz": []}


def test_what_a_label_server_proposed_is_no_truth(tmp_path):
    lay_out(tmp_path, "a.nii.gz", "b.nii.gz", "labels/original/a.nii.gz", "case/ct.nii", "case/labels/original/ct.nii")
    assert set(map(tuple, pairs(tmp_path).values())) == {()}
    assert strays(tmp_path) == []


def test_a_folder_original_of_images_has_its_labels(tmp_path):
    lay_out(tmp_path, *(f"{kind}/{which}/1.png" for kind in ("images", "labels") for which in ("original", "final")))
    assert pairs(tmp_path) == {
        "images/final/1.png": ["labels/final/1.png"],
        "images/original/1.png": ["labels/original/1.png"],
    }


def test_nnunet_without_its_list(tmp_path):
    lay_out(tmp_path, "Dataset001/imagesTr/C_1_0000.nii.gz", "Dataset001/labelsTr/C_1.nii.gz")
    lay_out(tmp_path, "Dataset001/imagesTr/C_2_0000.nii.gz", "Dataset001/imagesTs/C_3_0000.nii.gz")
    assert pairs(tmp_path) == {
        "Dataset001/imagesTr/C_1_0000.nii.gz": ["Dataset001/labelsTr/C_1.nii.gz"],
        "Dataset001/imagesTr/C_2_0000.nii.gz": [],
        "Dataset001/imagesTs/C_3_0000.nii.gz": [],
    }


# Neither images nor masks


def test_what_was_made_of_an_image_beside_it_is_left_out(tmp_path):
    made = [f"a{ending}" for ending in ("_clusters.png", "_panel.png", "_pred.nii.gz", "_prediction.png", "_thumb.jpg")]
    made += ["a_objects.tif", "a_segmented.png", "a_overlay.png", "a_mask_pred.png", "z_mask_pred.png"]
    lay_out(tmp_path, "a.png", *made, "b_panel.png", "sub/a_clusters.png")
    lay_out(tmp_path, "thumb_a.jpg", "tn_a.jpg", "a_tn.jpg", "tn_z.jpg")
    lay_out(tmp_path, "a_Probabilities.tif", "a_Object Predictions.tif", "c/c_mask_dicom/1.dcm", "c/c.dcm")
    assert list(pairs(tmp_path)) == ["a.png", "b_panel.png", "c/c.dcm", "sub/a_clusters.png", "tn_z.jpg"]
    assert strays(tmp_path) == ["c/c_mask_dicom/1.dcm"]


@pytest.mark.parametrize(
    "folder",
    [
        *("@eaDir/a.png", "@eaDir", "@tmp", "#recycle", ".AppleDouble", "__MACOSX", ".Trashes", "$RECYCLE.BIN"),
        *("lost+found", ".thumbnails", "Thumbnails", "sub/@eaDir/b.png", "System Volume Information", ".@__thumb"),
        *("thumb", "_thumbs", "Thumbnail Cache", "~snapshot", "Trash", "TemporaryItems", "Network Trash Folder"),
        *("Previews.lrdata", "_vti_cnf"),
    ],
)
def test_thumbnails_and_bins_are_no_images(tmp_path, folder):
    lay_out(tmp_path, "a.png", "._a.png", "a.png@SynoEAStream", "Thumbs.db", f"{folder}/SYNOPHOTO_THUMB_M.png")
    assert list(pairs(tmp_path)) == ["a.png"]


def test_the_log_tells_once_of_label_maps_that_are_no_images(tmp_path, caplog):
    lay_out(tmp_path, "a.png", "b.png", "a_mask.png", "a_mask_1.png", "b_pred.png", *(f"x{n}_gt.png" for n in "4321"))
    with caplog.at_level(logging.INFO, "monai_fusenet"):
        find_images(tmp_path)
    assert caplog.messages == [
        "found beside the images: 2 masks of the images; 5 other files that are no images, by their names: "
        "b_pred.png, x1_gt.png, x2_gt.png and 2 more"
    ]


def test_the_log_is_silent_where_all_files_are_images(tmp_path, caplog):
    lay_out(tmp_path, "a.png", "b.png")
    with caplog.at_level(logging.INFO, "monai_fusenet"):
        find_images(tmp_path)
    assert caplog.messages == []


# Unicode

NFC, NFD = (unicodedata.normalize(form, "Schädel") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (f"images/{NFC}.png", f"masks/{NFD}.png"),
        (f"{NFD}.png", f"{NFC}_mask.png"),
        (f"{NFD}/images/1.png", f"{NFC}/masks/1.png"),
    ],
)
def test_one_name_in_two_forms_of_unicode(tmp_path, image, mask):
    lay_out(tmp_path, image, mask, image.replace(".png", "2.png"))
    assert pairs(tmp_path)[image] == [mask]
    assert strays(tmp_path) == []


def test_names_of_results_differ_by_more_than_the_form_of_unicode():
    assert unique_names([f"a/{NFC}.png", f"b/{NFD}.png"]) == [f"a_{NFC}", f"b_{NFD}"]
    assert unique_names([f"{NFC}.png", f"{NFD}.png"]) == [f"{NFC}_png", f"{NFD}_png_2"]
