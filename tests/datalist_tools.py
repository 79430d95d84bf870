"""Empty files in the layout of a data set, and what is found there."""

from pathlib import Path

from monai_fusenet.data import find_images


def lay_out(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def pairs(folder: Path, **options) -> dict[str, list[str]]:
    """File of each image -> files of its masks, relative to the folder."""
    found = {}
    for item in find_images(folder, **options):
        labels = item.get("label", [])
        labels = [labels] if isinstance(labels, str) else labels
        found[item["file"]] = [Path(label).relative_to(folder).as_posix() for label in labels]
    return found
