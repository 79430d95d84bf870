"""The commands beside the workflows: annotate, samples, bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from monai_fusenet.label.__main__ import PARAMETERS, serve
from monai_fusenet.shipped import copy_bundle

__all__ = ["OTHER_COMMANDS"]


@contextmanager
def told() -> Iterator[None]:
    """Turns errors with files into one line for the user."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error)
        raise click.ClickException(reason) from error
    except ValueError as error:
        raise click.ClickException(str(error)) from error


FOLDER = click.Path(file_okay=False)


@click.command(short_help="Writes the sample images as files into OUT, to try things out.")
@click.argument("out", type=FOLDER)
def samples(out: str) -> None:
    """Writes the sample images as files into OUT: four medical images that scikit-image installs.

    The commands masks and train use them if no folder is given. They have no masks.
    """
    from monai_fusenet.cli.line import quoted
    from monai_fusenet.data.samples import write_samples

    with told():
        files = write_samples(out)
    print(f"wrote {', '.join(file.name for file in files)} into {out}; for example:")
    print(f"monai-fusenet masks {quoted(out)}")


@click.command(short_help="Writes the bundle and the overlays into OUT, to read, change and run with MONAI.")
@click.argument("out", type=FOLDER, default=".")
def bundle(out: str) -> None:
    """Writes the bundle and the overlays into OUT, by default the current folder, to read, change and run with MONAI.

    They go to OUT/bundles and OUT/configs.
    """
    from monai_fusenet.cli.line import bundle_line, shown_line

    with told():
        bundles, configs = copy_bundle(out)
    config = bundles / "fusenet_segmentation" / "configs" / "inference.json"
    print(f"wrote {bundles} and {configs}; for example:")
    print(shown_line(bundle_line("inference", [str(config)], {"dataset_dir": "YOUR_IMAGES"})))


annotate = click.Command(
    "annotate",
    params=[click.Argument(["studies"], metavar="FOLDER", type=FOLDER), *PARAMETERS],
    callback=serve,
    short_help="Serves a web page where you make masks of the images in FOLDER with clicks.",
    help="Serves the images in FOLDER to a web page where you make masks with clicks, and through MONAI Label to 3D "
    "Slicer, OHIF and CVAT. FOLDER may also be the address of a DICOMweb server. Needs the extra label: "
    "pip install 'monai-fusenet[label]'.",
)

OTHER_COMMANDS = (annotate, samples, bundle)
