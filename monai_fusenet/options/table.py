"""The options of the configs in one table, in the groups in which the command shows them."""

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
        kind: what its value may be.
        workflows: those that know it.
        help: what it does, in one sentence.
        shapes_results: whether results depend on it, so that those of another value are not taken for these.
        part: "fit" or "student" where presets bring it: workflows that do not know it pass it over, and the masks that
            teach do not depend on a student's options.
        overlays: those that bring it, where the workflows' own configs do not have it.
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
    Option("dataset_dir", FOLDER, WORKFLOWS, "Images, and masks where there are any; null: samples.", False),
    Option(
        "sequences",
        Kind("null, or list of texts"),
        WORKFLOWS,
        "Endings of the files that are channels of one image, as ['_t1','_t2'].",
    ),
    Option("output_dir", FOLDER, WORKFLOWS, "Where the results go.", False),
    Option(
        "accepted_dir",
        ACCEPTED,
        ("distillation",),
        "Masks <name>.* or <name>_mask.* that a person accepted, of any number of images: they teach, too.",
        False,
    ),
    Option(
        "predictions_dir",
        FOLDER,
        ("evaluation",),
        "Masks <name>_mask.*, and objects <name>_objects.*, to score instead of making them.",
        False,
    ),
    Option("checkpoint", FILE, WORKFLOWS, "Weights to start from: the model.pt of a training."),
    Option("device", TEXT, WORKFLOWS, "Where to compute, as cpu or cuda:1; by default a GPU if there is one.", False),
    Option("amp", SWITCH, WORKFLOWS, "Mixed precision (bfloat16); by default on a GPU."),
    Option("seed", whole(0), WORKFLOWS, "Seed of everything random, below 2**32.", part="student"),
    Option("seeds", SEEDS, ("evaluation",), "Make masks with each of these seeds and score all, as [0,1,2].", False),
    Option("overwrite", SWITCH, WORKFLOWS, "Do again what is finished.", False),
    Option("dicom_output", DICOM, ("inference", "evaluation"), "Masks of DICOM images as DICOM, too.", False),
    Option(
        "workers",
        whole(0),
        MASKS,
        "Processes of one thread each that share the images; results are the same for any number from 1. By default as "
        "many as cores and memory allow. 0: this one alone, with all threads: the default for volumes and on a GPU.",
        False,
    ),
    Option(
        "panels",
        PANELS,
        MASKS,
        "Which images that are done now get a panel; some: the first 50 and doubtful ones.",
        False,
    ),
    Option("num_workers", whole(0), WORKFLOWS, "Processes that load images, where workers is 0; 0: none.", False),
    Option("spatial_dims", whole(2)._replace(text="2 or 3"), WORKFLOWS, "Axes of the images."),
    Option("in_channels", whole(1), WORKFLOWS, "Channels of the images; grey is repeated."),
    Option(
        "nan_value",
        NAN_VALUE,
        WORKFLOWS,
        "What takes the place of NaN and infinite values of an image; null: such an image is refused.",
    ),
    Option(
        "field",
        FIELD,
        WORKFLOWS,
        "The field of view that is worked on: what the device exposes, or the body in it; null: the whole image.",
    ),
    Option(
        "second_view_channels",
        SECOND_VIEW,
        WORKFLOWS,
        "The last channels of an image that are its second view; 0: the image is augmented.",
    ),
    Option(
        "working_size",
        WORKING_SIZE,
        WORKFLOWS,
        "The size that images are brought to, in pixels; with volume and slices, the number of voxels.",
    ),
    Option(
        "working_spacing",
        Kind("null, number, or list of numbers"),
        WORKFLOWS,
        "Sides of a voxel of the working grid in mm, one number or one for each axis; null: by working_size.",
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
        "Volumes go slice by slice through a 2-D network, each slice beside so many on either side; null: not.",
    ),
    Option(
        "features",
        WHOLE_OR_NULL,
        WORKFLOWS,
        "Width of the network; null: that of the method.",
    ),
    Option("patch_grid", whole(1), WORKFLOWS, "Patches along each axis, for losses that compare patches."),
    Option(
        "merge_twins",
        SWITCH,
        WORKFLOWS,
        "Clusters that the network calls twins count as one; of a training, in its panel.",
    ),
    Option(
        "split_objects",
        SWITCH,
        MASKS,
        "Whether masks are cut into objects that touch, as nuclei; they go to <name>_objects.*.",
        part="student",
    ),
    Option("edge_factor", whole(1), WORKFLOWS, "How much smaller maps are seen by FuseNet's edge term."),
    Option(
        "fit_steps", whole(0), MASKS, "The method's own steps of a fit; FuseNet's are 8, in volumes 12.", part="fit"
    ),
    Option(
        "steps",
        whole(0),
        MASKS,
        "Most steps of a fit at each resolution but the last; 0: none.",
        part="fit",
    ),
    Option(
        "final_steps",
        STEPS_OR_NULL,
        MASKS,
        "Most steps at the last of several resolutions; null: as many as at the others.",
        part="fit",
    ),
    Option(
        "resolutions",
        RESOLUTIONS,
        MASKS,
        "Shortest sides in pixels, or parts of the image's size, at which an image is fitted one after the other.",
        part="fit",
    ),
    Option(
        "partitions",
        PARTITIONS,
        ("inference", "evaluation"),
        "Numbers of clusters of k-means whose masks vote beside that of the fit; []: the fit alone.",
        part="fit",
    ),
    Option("lr", number("number, at least 0"), WORKFLOWS, "Learning rate of the method."),
    Option("min_clusters", whole(0), WORKFLOWS, "A step that sees at most so many clusters is the last."),
    Option("first_step", whole(1), WORKFLOWS, "The first step that may be the last, counted from 1."),
    Option("max_epochs", whole(1), ("training",), "Epochs of a training.", False),
    Option("val_interval", whole(1), ("training",), "Epochs from one panel of the first images to the next.", False),
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
        "Seeds of fits that teach; []: k-means alone.",
        part="student",
    ),
    Option(
        "student_size",
        STUDENT_SIZE,
        ("distillation",),
        "The size at which the student sees images, in pixels.",
        part="student",
    ),
    Option(
        "student_amp",
        SWITCH,
        ("distillation",),
        "Mixed precision (bfloat16) of the student's training; by default where it is fast.",
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
        "Agreement from which on an image teaches.",
        part="student",
    ),
    Option(
        "confidence_power",
        number("number, at least 0"),
        ("distillation",),
        "Power that the student's confidence in a mask is raised to; where there are accepted masks, they tell it.",
        part="student",
    ),
    Option(
        "agreement",
        number("number, 0 to 1"),
        ("distillation",),
        "Agreement from which on masks are unchanged.",
        part="student",
    ),
    Option(
        "objects",
        WHOLE_OR_NULL,
        ("distillation",),
        "Objects that a mask of the student keeps; null: any.",
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
    """A block of the configs that is no option, but has a part in the checks or the fingerprint.

    Attributes:
        name: its key, nested ones with `#`.
        is_built_first: whether it needs no data, so that a wrong value is found before anything is read or written.
        shapes_results: whether results depend on what it says.
        part: as that of `Option`.
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
