"""What a click does, as a picture: `python -m benchmarks.click_picture` writes `docs/label.png`.

From a drawn image and one that scikit-image installs (colon glands); the clicks are written down here.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_fusenet.data import draw_phantoms, phantom_images, sample_images
from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer
from monai_fusenet.utils.files import atomic_path

PICTURE = Path(__file__).parents[1] / "docs" / "label.png"
# Clicks on the object, as [x, y].
CLICKS: list[tuple[str, list[list[int]]]] = [
    ("phantom_000.png", [[96, 80]]),
    ("ihc.png", [[315, 375]]),
    ("ihc.png", [[315, 375], [120, 120]]),
]


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.click_picture", description=__doc__).parse_args()
    figure = Figure(figsize=(9, 3 * len(CLICKS)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(CLICKS), 3, squeeze=False)
    with tempfile.TemporaryDirectory() as scratch:
        draw_phantoms(scratch, count=1)
        items = {Path(item["file"]).name: item for item in (*sample_images(), *phantom_images(scratch, count=1))}
        clusterer = Clusterer(ClusterCache(Path(scratch) / "cache"))
        for axes, (file, clicks) in zip(rows, CLICKS, strict=True):
            found = clusterer.clusters(items[file]["image"])
            image = np.moveaxis(np.asarray(clusterer.image(items[file]["image"])), 0, -1)
            mask = found.selector([click[::-1] for click in clicks])
            axes[0].imshow(found.clusters, cmap="tab10", interpolation="nearest")
            axes[0].set_title(f"{found.clusters.max()} clusters, without any label")
            axes[1].imshow(image)
            for x, y in clicks:
                axes[1].plot(x, y, "*", color="#00e676", markeredgecolor="black", markersize=14)
            axes[1].set_title("one click" if len(clicks) == 1 else f"{len(clicks)} clicks")
            axes[2].imshow(image)
            axes[2].contour(mask, [0.5], colors="#00e676", linewidths=1.5)
            axes[2].set_title("the mask")
            for axis in axes:
                axis.axis("off")
    with atomic_path(PICTURE) as temporary:
        figure.savefig(temporary, dpi=80)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
