"""The names that data sets and programs give to images, masks, and other files; docs/datasets.md lists them.

Names are compared without regard to case, to separators and to the form of their Unicode characters.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Collection
from enum import IntEnum
from functools import cache
from typing import NamedTuple

__all__ = [
    "Folder",
    "Rank",
    "fold",
    "image_keys",
    "is_ignored",
    "is_mask",
    "mask_rank",
    "mask_stems",
    "may_be_mask",
    "may_hold_masks",
    "normal",
    "shadow_of",
]

# Thumbnails, bins and notes of file servers and systems; regions of interest (PH2) and superpixels (ISIC).
IGNORED = (
    *(".*", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__macosx"),
    *("~snapshot", "trash", "temporaryitems", "network trash folder", "lost+found", "system volume information"),
    *("thumb", "thumbs", "_thumb", "_thumbs", "thumbnail", "thumbnails", "thumbnail cache", "*.lrdata", "_vti_*"),
    *("imd*_roi", "isic_*_superpixels.png"),
)

# Folders, without separators. PH2: imd*; ISIC challenges: isic*, isbi*; Montgomery: manualmask, leftmask, rightmask;
# Montgomery and Shenzhen: cxrpng; Decathlon and nnU-Net: *tr, *ts; DRIVE: 1stmanual; HRF: manual1; KiTS: instances.
_FORMAT = "png|jpe?g|bmp|tiff?|nii|nifti|nrrd|dcm|dicom|dir|folder|files"  # 3DIRCADb: MASKS_DICOM
IMAGE_FOLDER = re.compile(
    r"(images?|imgs?|jpegimages|images(tr|ts|va|val)|cxrpng|originals?|volumes?|inputs?|rawdata"
    r"|imd.*dermoscopicimage|isic.*data|isbi.*data|isic.*input)"
    rf"({_FORMAT})?"
)
MASK_FOLDER = re.compile(
    r"(masks?|labels?|labels(tr|ts|va|val)|labelmaps?|segs?|segmentations?|segmentation(class|object)|gts?"
    r"|ground(truths?)?|anno?|annotations?|instances|[1-3](st|nd|rd)manual|manual[0-9]?"
    r"|(manual|left|right)mask|imd.*lesion|isic.*groundtruth|isbi.*groundtruth)"
    rf"({_FORMAT})?"
)
# Of folded names, and only beside images of the same stems: Lung_Mask beside ct_scans, seg-lungs-LUNA16 beside subset0,
# trainannot beside train. Words that are also other things count only at an end: label_free, GT-R. What a
# program made is no truth: mask_pred.
MAYBE_MASK_FOLDER = re.compile(
    r"^(?!(?:with|without|no)_|.*(?:^|_)(?:pred|prob|overlay|output|result))"
    r"(?:segs?_|(?:.*_)?(?:(?:masks?|msks?|segmentations?|labelmaps?|ground_?truths?)(?:_|$)"
    r"|(?:gts?|labels?|segs?|annos?|annots?|annotations?|(?:train|val|test)annot)$))"
)
BIDS_FOLDERS = ("anat", "dwi", "func", "perf", "pet")  # in those of a subject or of its sessions
FIRST_FOLDER = re.compile(r"1stmanual|manual1?|gts?|groundtruths?")
OBSERVER_FOLDER = re.compile(r"[1-3](st|nd|rd)manual|manual[1-9]")  # a `mask` beside one is a field of view
SPLIT = re.compile(r"train(ing)?|test(ing)?|val(id|idation)?", re.IGNORECASE)

# Stems. A separator, a word, and perhaps a number: one file per lesion, as in BUSI; _dicom: the folder of a mask that
# this package wrote; dseg and probseg: BIDS; msk: VerSe; anno: GlaS; 1stHO: CHASE; aggregated: KiTS; cp_masks: what
# cellpose made; simple segmentation: ilastik; Segment_1, LabelMapVolume: 3D Slicer; aseg, synthseg: FreeSurfer; pveseg:
# FSL.
_SEPARATOR = r"[_\-. ]"
_PERSON = rf"(?:annotator|expert|grader|observer|rater|reader){_SEPARATOR}?[0-9]+"
_OF_PROGRAMS = r"(?:aparc\+)?aseg|brainmask|pveseg|synthseg|labelmapvolume"
_STRONG = rf"masks?|segmentations?|labelmaps?|labelsets?|ground{_SEPARATOR}?truth"
_WORD = (
    rf"{_STRONG}|{_OF_PROGRAMS}|msk|lbl|segs?|labels?|gt|anno|annotations?|dseg|probseg|[1-9](?:st|nd|rd|th)ho|manual"
)
_NUMBER = rf"(?P<number>{_SEPARATOR}?[0-9]+|{_SEPARATOR}?\([0-9]+\)|{_SEPARATOR}{_PERSON})?(?:_dicom)?"
_OF_SEVERAL = rf"aggregated{_SEPARATOR}(?:maj|and|or)|cp{_SEPARATOR}masks|simple{_SEPARATOR}segmentation"
MASK_ENDING = re.compile(rf"(?:^(?!manual)|{_SEPARATOR})(?:{_WORD}|{_OF_SEVERAL}){_NUMBER}$", re.IGNORECASE)
MASK_ENDING_IN_MASK_FOLDER = re.compile(
    rf"(?:^|{_SEPARATOR})(?:{_WORD}|{_OF_SEVERAL}|lesion|{_PERSON}){_NUMBER}$", re.IGNORECASE
)
MASK_BEGINNING = re.compile(rf"^(?:(?:{_STRONG})[_-]+|mask of )(?=.)", re.IGNORECASE)  # LiTS: segmentation-0; Fiji
MAYBE_MASK_BEGINNING = re.compile(rf"^(?:{_WORD}){_SEPARATOR}+(?=.)", re.IGNORECASE)
# Masks only where an image has the stem before: a_mask_left, aMask; a_reader1, t2_tumor_reader1 (Prostate158).
# Label-free is a kind of microscopy.
MASK_WITHIN = re.compile(rf"^.+(?P<word>{_SEPARATOR}(?:{_WORD})(?={_SEPARATOR}(?!free)))", re.IGNORECASE)
MASK_CAPITAL = re.compile(r"^.+(?P<word>(?:Mask|Label|Seg|Segmentation)s?)(?![a-z])")
OF_A_PERSON = re.compile(rf"^.+?(?P<word>(?P<part>{_SEPARATOR}[a-z]+)?{_SEPARATOR}{_PERSON})$", re.IGNORECASE)
OF_A_PART = re.compile(rf"^(?:{_STRONG}|labels?|segs?){_SEPARATOR}+[a-z]", re.IGNORECASE)  # label_liver beside `ct`
PART = re.compile(rf"{_SEPARATOR}segment_[0-9]+$|_(?:desc|label|seg|atlas|method)-[a-z0-9]+$", re.IGNORECASE)  # of BIDS
# Of another image in the folder: what a program made of it.
SHADOW_ENDING = re.compile(
    rf"{_SEPARATOR}(?:clusters|objects|panel|preds?|(?:object )?predictions?|probs?|probabilit(?:y|ies)|segmented"
    rf"|overlay|tn|thumb|thumbnail|flows|(?:cp{_SEPARATOR})?outlines)$",
    re.IGNORECASE,
)
SHADOW_BEGINNING = re.compile(rf"^(?:tn|thumb|thumbnail){_SEPARATOR}", re.IGNORECASE)
# In stems that are folded. 0000: the first channel of nnU-Net; training, test: DRIVE; T1w: BIDS.
_IMAGE_WORD = r"images?|imgs?|im|imaging|volume|vol|scan|orig|original|raw|input|ct|mr|mri"
IMAGE_ENDING = re.compile(
    rf"(?:^|_)(?:{_IMAGE_WORD}|t[12](?:w|c|ce|gd|n|f)?|flair|pdw?|dwi|adc|swi|bold|training|test|0000)$"
)
IMAGE_WORD_AND_NUMBER = re.compile(rf"(?P<before>^|_)(?:{_IMAGE_WORD})_?(?P<number>[0-9]+)$")
IMAGE_BEGINNING = re.compile(rf"^(?:{_IMAGE_WORD})_(?=.)")


class Rank(IntEnum):
    """Of the masks that one image has, those of the lowest rank are its truth; equal ranks are parts of one mask."""

    FIRST = 0  # a first observer; what was accepted on a label server
    PLAIN = 1
    MAJORITY = 2
    ANNOTATOR = 10  # plus the annotator's number
    OTHER = 1000  # intersection and union of annotators; what a program made
    PROPOSAL = 1001  # of a label server, unless images lie in a folder of this name, too
    NO_TRUTH = 1002  # probabilities


class Folder(NamedTuple):
    """The meaning of a folder, from its name and those of the folders above.

    Attributes:
        group: the folders whose names are no convention; an image and its mask have the same.
        is_mask: whether label maps lie in it.
        rank: of these.
        name: of the folder itself, folded; "" for the dataset folder, whose own name means nothing.
        is_convention: whether it is a folder of images or of masks by its own name.
    """

    group: tuple[str, ...] = ()
    is_mask: bool = False
    rank: int = Rank.PLAIN
    name: str = ""
    is_convention: bool = False

    def below(self, name: str, siblings: Collection[str]) -> Folder:
        """The folder of this name in this one; `siblings` are the names of all folders in this one."""
        word = _word(name)
        is_of_subject = bool(self.group) and self.group[-1].startswith(("sub-", "ses-"))
        if is_of_subject and word in BIDS_FOLDERS:
            return self._replace(name=word)
        if word == "derivatives" or (self.name == "derivatives" and not word.startswith("sub")):  # BIDS
            return self._replace(name=word, is_mask=self.is_mask or _is_mask_folder(word))
        if self.is_convention and word == "final":  # MONAI Label
            return self._replace(name=word, rank=Rank.FIRST if self.is_mask else self.rank)
        if self.is_convention and word == "original":
            is_proposal = self.is_mask and self.name in ("label", "labels")
            rank = Rank.PROPOSAL if is_proposal else self.rank
            return Folder((*self.group, word), self.is_mask, rank, word)
        if word.endswith("maskdicom"):  # a folder that this package wrote
            return Folder((*self.group, normal(name)), True, Rank.PLAIN, word)
        if _is_mask_folder(word):
            rank = Rank.FIRST if FIRST_FOLDER.fullmatch(word) else _annotator(word) or Rank.PLAIN
            return Folder(self.group, True, rank, word, True)
        if IMAGE_FOLDER.fullmatch(word):
            return self._replace(name=word, is_convention=True)
        return self._below_compound(name, siblings)

    def _below_compound(self, name: str, siblings: Collection[str]) -> Folder:
        """As `below`, for a name such as `train_masks`, which counts beside `train`, `train_images` or any `images`."""
        kind, rest = _split(name)
        part: tuple[str, ...] = (normal(name),)
        if kind:
            beside = [_split(sibling) for sibling in siblings if sibling != name]
            others = [other for other in beside if other[0] not in ("", kind)]
            if any(other[1] == rest for other in others) or (kind == "mask" and ("", rest) in beside):
                part = (rest,)
            elif others and (kind == "mask" or "image" not in dict(beside)):  # Tissue Images, Binary masks
                part = ()
        is_mask = self.is_mask or (kind == "mask" and part != (normal(name),))
        return Folder((*self.group, *part), is_mask, self.rank, _word(name))

    @property
    def data_set(self) -> tuple[str, ...]:
        """The group of all parts of its data set, `train` and `test` among them."""
        return self.group[:-1] if self.group and SPLIT.fullmatch(self.group[-1]) else self.group

    @property
    def is_of_observer(self) -> bool:
        """Whether its masks are those of one of several observers, by its own name."""
        return OBSERVER_FOLDER.fullmatch(self.name) is not None

    def holding(self, folders: Collection[str]) -> Folder:
        """This folder, known to hold `folders`: one of both images and masks is a data set called `seg`, no mask."""
        words = [_word(name) for name in folders] if self.is_mask else []
        if any(IMAGE_FOLDER.fullmatch(word) for word in words) and any(_is_mask_folder(word) for word in words):
            return self._replace(is_mask=False, rank=Rank.PLAIN, is_convention=False)
        return self


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is ignored."""
    return _IGNORED.match(name.lower()) is not None


def is_mask(stem: str) -> bool:
    """Whether a file of this stem is a label map, wherever it lies."""
    return any(pattern.search(stem) for pattern in (MASK_ENDING, MASK_BEGINNING))


def may_be_mask(stem: str) -> bool:
    """Whether a file of this stem is a label map if there is an image of the rest, as `a.png` beside `gt_a.png`."""
    is_shadow = SHADOW_ENDING.search(stem) is not None  # a_mask_pred
    return MAYBE_MASK_BEGINNING.search(stem) is not None or (not is_shadow and _before_mask_word(stem) is not None)


@cache
def may_hold_masks(folder: str) -> bool:
    """Whether a folder of this name holds label maps if images of their stems lie beside it."""
    return MAYBE_MASK_FOLDER.search(fold(_CAPITAL.sub("_", folder))) is not None


def mask_stems(stem: str, in_mask_folder: bool) -> list[str]:
    """The stems that the image of a mask may have, the likeliest first; "" for a mask that names no image.

    Example:
        >>> mask_stems("case_seg-label", False), mask_stems("liver-seg001", False), mask_stems("a_mask_1", True)
        (['case_seg', 'case'], ['liver-001', 'liver'], ['a_mask_1', 'a', 'a-1'])
    """
    stems = [stem] if in_mask_folder else []
    ending = MASK_ENDING_IN_MASK_FOLDER if in_mask_folder else MASK_ENDING
    while stem:
        if match := ending.search(stem):
            stem = stem[: match.start()]
            number = match["number"] or ""
            digits = re.sub(r"\D", "", number)
            numbered = f"{stem}-{digits}" if stem else digits
            # A number that stands apart counts lesions; one that does not is that of the image.
            stems += [stem, numbered] if digits != number and stem else [numbered, stem] if digits else [stem]
        elif stems and (match := PART.search(stem)):
            stem = stem[: match.start()]
            stems.append(stem)
        elif (before := _before_mask_word(stem)) and not SHADOW_ENDING.search(stem):
            stem = before[0]
            stems += before
        elif match := MASK_BEGINNING.search(stem) or MAYBE_MASK_BEGINNING.search(stem):
            is_part = OF_A_PART.match(stem) is not None and not in_mask_folder
            stem = stem[match.end() :]
            stems += [stem, ""] if is_part else [stem]
        else:
            break
    return list(dict.fromkeys(stems))


def _before_mask_word(stem: str) -> list[str] | None:
    """What may be the stem of an image before a word of a mask that does not end the stem of a mask."""
    if match := OF_A_PERSON.search(stem):
        first = match.start("word")
        return [stem[:first]] if match["part"] is None else [stem[: match.end("part")], stem[:first]]
    match = MASK_WITHIN.search(stem) or MASK_CAPITAL.search(stem)
    return [stem[: match.start("word")]] if match else None


def image_keys(stem: str) -> list[str]:
    """The names that a mask may use for an image of this stem: the folded stem, and without words such as `image`.

    Example:
        >>> image_keys("Brain 1_image"), image_keys("volume-0"), image_keys("imaging")
        (['brain_1_image', 'brain_1'], ['volume_0', '0'], ['imaging', ''])
    """
    key = fold(stem)
    keys = [key]
    while key:
        if match := IMAGE_ENDING.search(key):
            key = key[: match.start()]
        elif match := IMAGE_WORD_AND_NUMBER.search(key):
            key = f"{key[: match.start()]}{match['before']}{match['number']}"
        elif match := IMAGE_BEGINNING.search(key):
            key = key[match.end() :]
        else:
            break
        keys.append(key)
    return keys


def mask_rank(stem: str, folder: Folder) -> int:
    """The rank of a mask by its stem, or else by its folder."""
    word = fold(stem)
    if word.endswith("probseg"):
        return Rank.NO_TRUTH
    if match := re.search(r"aggregated_(maj|and|or)(_|$)|(^|_)(cp_masks|simple_segmentation)$", word):
        return Rank.MAJORITY if match[1] == "maj" else Rank.OTHER
    if re.search(r"(^|_)(dseg|gt|ground_?truth|manual1?|1stho)$", word):
        return Rank.FIRST if folder.rank <= Rank.ANNOTATOR else folder.rank
    return _annotator(word) or folder.rank


def shadow_of(stem: str) -> str | None:
    """The stem of the image from which this or another program may have made this file; `None` if there is none."""
    if match := SHADOW_ENDING.search(stem):
        return stem[: match.start()]
    match = SHADOW_BEGINNING.search(stem)
    return stem[match.end() :] if match else None


def fold(name: str) -> str:
    """A name without regard to case, separators and the form of its Unicode characters."""
    return _SEPARATORS.sub("_", normal(name).casefold()).strip("_")


def normal(name: str) -> str:
    """A name in Unicode's form NFC: archives of macOS hold names in form NFD."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _word(name: str) -> str:
    return fold(name).replace("_", "")


def _is_mask_folder(word: str) -> bool:
    return MASK_FOLDER.fullmatch(word) is not None


def _annotator(word: str) -> int | None:
    """The rank of an annotator whose number stands at the end of a folded name."""
    match = _ANNOTATOR.search(word)
    return Rank.ANNOTATOR + int(match[1] or match[2] or match[3]) if match else None


def _split(name: str) -> tuple[str, str]:
    """`train_masks` -> ("mask", "train"), `images_train` -> ("image", "train"), `train` -> ("", "train")."""
    words = fold(name).split("_")
    for kind, pattern in (("mask", MASK_FOLDER), ("image", IMAGE_FOLDER)):
        if pattern.fullmatch("".join(words)):
            return kind, ""
    for word, rest in ((words[-1], words[:-1]), (words[0], words[1:])):
        for kind, pattern in (("mask", MASK_FOLDER), ("image", IMAGE_FOLDER)):
            if rest and pattern.fullmatch(word):
                return kind, "_".join(rest)
    return "", "_".join(words)


_IGNORED = re.compile("|".join(fnmatch.translate(pattern) for pattern in IGNORED))
_SEPARATORS = re.compile(r"[\s._-]+")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ANNOTATOR = re.compile(
    r"(?:annotation|annotator|expert|grader|observer|rater|reader)_?([0-9]+)$"
    r"|(?:^|_)manual_?([2-9])$|([2-9])(?:nd|rd|th)_?(?:ho|manual)$"
)
