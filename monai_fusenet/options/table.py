"""The options of the configs in one table, in the groups that the command shows."""

from __future__ import annotations

from dataclasses import dataclass

from monai_fusenet.options.kinds import (
    ACCEPTED,
    AXES,
    CLASSES,
    DICOM,
    FIELD,
    FILE,
    FOLDER,
    NAN_VALUE,
    NEIGHBOURS,
    PANELS,
    PARTITIONS,
    RESOLUTIONS,
    SECOND_VIEW,
    SEEDS,
    STEPS_OR_NULL,
    STUDENT_SIZE,
    SWITCH,
    TEXT,
    WHOLE_OR_NULL,
    WORKING_SIZE,
    Kind,
    number,
    whole,
)

__all__ = [
    "BLOCKS",
    "BOOKKEEPING",
    "FIT_OPTIONS",
    "GROUPS",
    "OPTIONS",
    "STUDENT_OPTIONS",
    "WORKFLOWS",
    "Block",
    "Option",
]

WORKFLOWS = ("training", "inference", "evaluation", "distillation")
MASKS = WORKFLOWS[1:]  # those that fit a network to each image


@dataclass(frozen=True)
class Option:
    """A top-level option of the configs.

    Attributes:
        name: after `--` on the command line.
        kind: the values that it may have.
        workflows: the workflows that have it.
        help: its purpose in one sentence.
        shapes_results: whether results depend on it; results of another value are then not reused.
        part: "fit" or "student" if presets bring it. Workflows without it then ignore it, and the teachers' masks do
            not depend on a student's options.
        overlays: the overlays that bring it, if the workflows' own configs do not have it.
    """

    name: str
    kind: Kind
    workflows: tuple[str, ...]
    help: str
    shapes_results: bool = True
    part: str = ""
    overlays: tuple[str, ...] = ()


OPTIONS = (
    Option("bundle_root", FOLDER, WORKFLOWS, "The bundle; by default the folder above that of the config file.", False),
    Option("dataset_dir", FOLDER, WORKFLOWS, "Images, and masks if there are any; null: samples.", False),
    Option(
        "sequences",
        Kind("null, or list of texts"),
        WORKFLOWS,
        "Endings of files that are the channels of one image, for example ['_t1','_t2'].",
    ),
    Option("output_dir", FOLDER, WORKFLOWS, "Folder for the results.", False),
    Option(
        "accepted_dir",
        ACCEPTED,
        ("distillation",),
        "Masks <name>.* or <name>_mask.* that a person accepted, for any number of images; the student uses them.",
        False,
    ),
    Option(
        "predictions_dir",
        FOLDER,
        ("evaluation",),
        "Folder of masks <name>_mask.* and objects <name>_objects.* to score; no masks are made then.",
        False,
    ),
    Option("checkpoint", FILE, WORKFLOWS, "Weights to start from: the model.pt of a training."),
    Option("device", TEXT, WORKFLOWS, "Where to compute, as cpu or cuda:1; by default a GPU if there is one.", False),
    Option("amp", SWITCH, WORKFLOWS, "Mixed precision (bfloat16); by default on a GPU."),
    Option("seed", whole(0), WORKFLOWS, "Seed of all random numbers, below 2**32.", part="student"),
    Option(
        "seeds",
        SEEDS,
        ("evaluation",),
        "Make masks with each of these seeds and score all, for example [0,1,2].",
        False,
    ),
    Option("overwrite", SWITCH, WORKFLOWS, "Do finished work again.", False),
    Option("dicom_output", DICOM, ("inference", "evaluation"), "Also write masks of DICOM images as DICOM.", False),
    Option(
        "workers",
        whole(0),
        MASKS,
        "Processes of one thread each that share the images; from 1 on, each number gives the same results. By default "
        "as many as cores and memory allow. 0: only this process, with all threads (default for volumes and on a GPU).",
        False,
    ),
    Option(
        "panels",
        PANELS,
        MASKS,
        "Which images of this run get a panel; some: the first 50 and the doubtful ones.",
        False,
    ),
    Option("num_workers", whole(0), WORKFLOWS, "Processes that load images if workers is 0; 0: none.", False),
    Option("spatial_dims", whole(2)._replace(text="2 or 3"), WORKFLOWS, "Number of spatial axes."),
    Option("in_channels", whole(1), WORKFLOWS, "Number of channels of the images; a single grey channel is repeated."),
    Option(
        "nan_value",
        NAN_VALUE,
        WORKFLOWS,
        "Value that replaces NaN and infinite values of an image; null: such an image is refused.",
    ),
    Option(
        "field",
        FIELD,
        WORKFLOWS,
        "The part of the image to use: what the device exposes, or the body in it; null: the whole image.",
    ),
    Option(
        "second_view_channels",
        SECOND_VIEW,
        WORKFLOWS,
        "How many of the last channels of an image are its second view; 0: the second view is an augmented copy.",
    ),
    Option(
        "working_size",
        WORKING_SIZE,
        WORKFLOWS,
        "Size in pixels to which images are resized; with volume and slices only its number of voxels counts.",
    ),
    Option(
        "working_spacing",
        Kind("null, number, or list of numbers"),
        WORKFLOWS,
        "Voxel size of the working grid in mm, one number or one per axis; null: set by working_size.",
        overlays=("volume", "slices"),
    ),
    Option(
        "window",
        Kind("name, or list of two numbers"),
        WORKFLOWS,
        "Window of a CT: lung, mediastinum, abdomen, liver, brain, bone, or [level, width] in HU.",
        overlays=("ct",),
    ),
    Option(
        "neighbours",
        NEIGHBOURS,
        WORKFLOWS,
        "Run a 2-D network on each slice of a volume, with this many slices on either side; null: do not.",
    ),
    Option(
        "features",
        WHOLE_OR_NULL,
        WORKFLOWS,
        "Width of the network; null: the method's own.",
    ),
    Option("patch_grid", whole(1), WORKFLOWS, "Number of patches along each axis, for losses that compare patches."),
    Option(
        "merge_twins",
        SWITCH,
        WORKFLOWS,
        "Count twin clusters of the network as one; in a training, only in its panel.",
    ),
    Option(
        "split_objects",
        SWITCH,
        MASKS,
        "Cut masks into touching objects, for example nuclei, and write these to <name>_objects.*.",
        part="student",
    ),
    Option("edge_factor", whole(1), WORKFLOWS, "Factor by which FuseNet's edge term shrinks maps."),
    Option(
        "fit_steps", whole(0), MASKS, "The method's own steps of a fit; FuseNet has 8, and 12 in volumes.", part="fit"
    ),
    Option(
        "steps",
        whole(0),
        MASKS,
        "Largest number of steps of a fit at each resolution except the last; 0: no fit.",
        part="fit",
    ),
    Option(
        "final_steps",
        STEPS_OR_NULL,
        MASKS,
        "Largest number of steps at the last of several resolutions; null: as at the others.",
        part="fit",
    ),
    Option(
        "resolutions",
        RESOLUTIONS,
        MASKS,
        "Sizes at which an image is fitted in turn: shortest sides in pixels, or fractions of the image's size.",
        part="fit",
    ),
    Option(
        "partitions",
        PARTITIONS,
        ("inference", "evaluation"),
        "Numbers of clusters of k-means whose masks vote together with the mask of the fit; []: only the fit.",
        part="fit",
    ),
    Option("lr", number("number, at least 0"), WORKFLOWS, "Learning rate of the method."),
    Option("min_clusters", whole(0), WORKFLOWS, "A fit or training ends after a step with at most this many clusters."),
    Option("first_step", whole(1), WORKFLOWS, "First step, counted from 1, after which min_clusters counts."),
    Option("max_epochs", whole(1), ("training",), "Epochs of a training.", False),
    Option("val_interval", whole(1), ("training",), "Epochs between two panels of the first images.", False),
    Option("batch_size", whole(1), ("training", "distillation"), "Images in a step.", part="student"),
    Option(
        "learning_rate",
        number("number, above 0"),
        ("training", "distillation"),
        "Learning rate of the network; in distillation, of the student.",
        part="student",
    ),
    Option(
        "teacher_seeds",
        Kind("list of whole numbers"),
        ("distillation",),
        "Seeds of the fits whose masks the student learns from; []: only those of k-means.",
        part="student",
    ),
    Option(
        "student_size",
        STUDENT_SIZE,
        ("distillation",),
        "Size in pixels of the images that the student gets.",
        part="student",
    ),
    Option(
        "student_amp",
        SWITCH,
        ("distillation",),
        "Mixed precision (bfloat16) for the student's training; by default on if it is fast.",
        part="student",
    ),
    Option("student_norm", TEXT, ("distillation",), "Normalisation of the student, as MONAI names it.", part="student"),
    Option(
        "flip_axes",
        AXES,
        ("distillation",),
        "Axes along which images may be mirrored, counted from 0.",
        part="student",
    ),
    Option("rounds", whole(1), ("distillation",), "Most rounds of learning from its own masks.", part="student"),
    Option("round_steps", whole(1), ("distillation",), "Optimisation steps of a round.", part="student"),
    Option(
        "min_confidence",
        number("number, 0 to 1"),
        ("distillation",),
        "The student learns from an image if its masks agree at least this well.",
        part="student",
    ),
    Option(
        "confidence_power",
        number("number, at least 0"),
        ("distillation",),
        "Exponent of the student's confidence in a mask; if there are accepted masks, it is computed from them.",
        part="student",
    ),
    Option(
        "agreement",
        number("number, 0 to 1"),
        ("distillation",),
        "Masks that agree at least this well between two rounds count as unchanged; the rounds then end.",
        part="student",
    ),
    Option(
        "objects",
        WHOLE_OR_NULL,
        ("distillation",),
        "Largest number of objects in a mask of the student; null: any number.",
        part="student",
    ),
    Option(
        "classes",
        CLASSES,
        ("distillation",),
        "Values of the classes in a mask of the student; by default those of the accepted masks.",
        part="student",
    ),
)

GROUPS = {
    "Folders and results": (
        *("dataset_dir", "output_dir", "accepted_dir", "predictions_dir", "overwrite", "panels", "dicom_output"),
        "bundle_root",
    ),
    "Image": (
        *("spatial_dims", "in_channels", "sequences", "second_view_channels", "nan_value", "window", "field"),
        *("working_size", "working_spacing", "neighbours"),
    ),
    "Fit": (
        *("checkpoint", "seed", "seeds", "features", "fit_steps", "steps", "final_steps", "resolutions", "lr"),
        *("min_clusters", "first_step", "patch_grid", "edge_factor"),
    ),
    "Choice of the mask": ("partitions", "merge_twins", "split_objects"),
    "Training": ("max_epochs", "val_interval", "batch_size", "learning_rate"),
    "Student": (
        *("teacher_seeds", "student_size", "student_norm", "student_amp", "flip_axes", "rounds", "round_steps"),
        *("min_confidence", "confidence_power", "agreement", "objects", "classes"),
    ),
    "Machine": ("device", "amp", "workers", "num_workers"),
}


@dataclass(frozen=True)
class Block:
    """A block of the configs that is no option, but takes part in the checks or the fingerprint.

    Attributes:
        name: its key, nested ones with `#`.
        is_built_first: whether it needs no data, so that a wrong value is found before anything is read or written.
        shapes_results: whether results depend on its content.
        part: as for `Option`.
    """

    name: str
    is_built_first: bool = True
    shapes_results: bool = True
    part: str = ""


BLOCKS = (  # in the order in which they are built; a fault is told of the first one that has it
    *map(Block, ("network_def", "loss_function", "foreground", "preprocessing", "postprocessing", "inferer")),
    *map(Block, ("augmentation", "train#preprocessing", "preview#preprocessing", "preview#postprocessing")),
    Block("classical"),
    Block("student_def", part="student"),
    *map(Block, ("student#preprocessing", "student#postprocessing", "student#augmentation", "student#loss_function")),
    Block("results_dir", shapes_results=False),
    *map(Block, ("network", "optimizer")),
    Block("teacher", shapes_results=False),
    Block("pool", part="student"),
    Block("distiller", shapes_results=False),
    Block("student", is_built_first=False, part="student"),
    *(Block(name, is_built_first=False) for name in ("scaling", "resizing", "network_dims", "network_channels")),
    *(
        Block(name, False, False)
        for name in ("items", "accepted", "writer", "dataset", "dataloader", "handlers", "evaluator")
    ),
)

TABLE: tuple[Option | Block, ...] = (*OPTIONS, *BLOCKS)
BOOKKEEPING = frozenset(entry.name for entry in TABLE if not entry.shapes_results)
FIT_OPTIONS = tuple(option.name for option in OPTIONS if option.part == "fit")
STUDENT_OPTIONS = tuple(entry.name for entry in TABLE if entry.part == "student")
