"""A site of a federation: MONAI's `MonaiAlgo` trains the bundle's network on the site's images, and sends weights.

NVFlare runs it at each site, with what `job.py` has planned for all.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import nvflare.client as flare
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from nvflare.apis.fl_constant import FLMetaKey

# Not `from monai_fusenet.shipped import ...`: NVFlare would copy that module into the job, where it hides the package.
from monai_fusenet import shipped
from monai_fusenet.bundle import FuseNetWorkflow


def make_site(site: str, files: list[str], local_epochs: int, options: dict[str, Any]) -> MonaiAlgo:
    """The bundle at a site, with the weights that it starts from and the images that it learns from.

    Args:
        site: its name, which takes the place of `{site}` in texts of the options.
        files: names of a workflow of this package and its overlays, see `shipped.config_files`.
        local_epochs: epochs of a round.
        options: of the workflow.

    Raises:
        ValueError: as the workflow.
    """
    own = {name: value.replace("{site}", site) if isinstance(value, str) else value for name, value in options.items()}
    configs = shipped.config_files(*files)
    workflow = FuseNetWorkflow(configs, meta_file=None, logging_file=False, workflow_type="train", **own)
    bundle = shipped.shipped("bundles") / "fusenet_segmentation"
    algo = MonaiAlgo(
        str(bundle),
        local_epochs,
        send_weight_diff=False,
        config_evaluate_filename=None,  # it would need labels
        train_workflow=workflow,
    )
    algo.initialize({ExtraItems.CLIENT_NAME: site})
    return algo


def count_images(algo: MonaiAlgo) -> int:
    """How many images of the site teach."""
    dataset = algo.trainer.data_loader.dataset
    return len({item["name"] for item in dataset.data}) - len(dataset.failures)


def main() -> None:
    """Trains from the weights that come, in each round, and sends what they have become: nothing but these leaves."""
    plan = json.loads(sys.argv[1])
    flare.init()
    algo = make_site(flare.get_site_name(), **plan)
    weight = {FLMetaKey.NUM_STEPS_CURRENT_ROUND: count_images(algo)}
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        algo.train(ExchangeObject(weights=received.params))
        flare.send(flare.FLModel(params=algo.get_weights().weights, meta=weight))
    algo.finalize()


if __name__ == "__main__":
    main()
