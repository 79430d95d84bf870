"""What a click does, as a picture: `python -m benchmarks.click_picture` writes `docs/label.png`.

From scikit-image's sample images; the clicks are written down here, as an annotator might have made them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_fusenet.data import sample_images
from monai_fusenet.files import atomic_path
from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer

PICTURE = Path(__file__).parents[1] / "docs" / "label.png"
# By file: foreground and background clicks, as [x, y].
CLICKS: dict[str, tuple[list[list[int]], list[list[int]]]] = {
    "cell.png": ([[245, 330]], []),
    "retina.jpg": ([[1040, 690]], []),
}


def main() -> None:
    items = {item["file"]: item for item in sample_images()}
    figure = Figure(figsize=(9, 3.2 * len(CLICKS)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(CLICKS), 3, squeeze=False)
    with tempfile.TemporaryDirectory() as scratch:
        clusterer = Clusterer(ClusterCache(scratch))
        for axes, (file, (foreground, background)) in zip(rows, CLICKS.items(), strict=True):
            found = clusterer.clusters(items[file]["image"])
            image = np.moveaxis(np.asarray(clusterer.image(items[file]["image"])), 0, -1)
            mask = found.selector(*([click[::-1] for click in clicks] for clicks in (foreground, background)))
            axes[0].imshow(found.clusters, cmap="tab10", interpolation="nearest")
            axes[0].set_title(f"{found.clusters.max()} clusters, without any label")
            axes[1].imshow(image)
            for clicks, colour in ((foreground, "#00e676"), (background, "#ff1744")):
                for x, y in clicks:
                    axes[1].plot(x, y, "*", color=colour, markeredgecolor="black", markersize=14)
            axes[1].set_title("one click")
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
