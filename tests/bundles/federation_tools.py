"""Sites of a federation: networks so small that rounds take no time, and averages by plain arithmetic."""

import copy

from bundle_tools import BUNDLE, SMALL, SMALL_STUDENT, SMALL_TRAINING
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

NAMES = {"training": "train", "distillation": "distill"}
TRAINING = {name: value for name, value in SMALL_TRAINING.items() if name not in ("max_epochs", "min_clusters")}
STUDENT = {name: value for name, value in SMALL_STUDENT.items() if name not in ("rounds", *SMALL)} | {
    "device": "cpu",
    "network_def#features": 4,
    "batch_size": 2,
}
OPTIONS = {"training": TRAINING, "distillation": STUDENT}


def make_site(workflow, folder, output, site="here", local_epochs=1, difference=False, **options):
    """The bundle at a site, by MONAI's algorithm with no more than a bundle's folder and names of configs."""
    name = NAMES[workflow]
    algo = MonaiAlgo(
        str(BUNDLE),
        local_epochs=local_epochs,
        send_weight_diff=difference,
        config_train_filename=[f"configs/{name}.json", f"configs/federated_{name}.json"],
        config_evaluate_filename=None,
        train_kwargs={**OPTIONS[workflow], "dataset_dir": str(folder), "output_dir": str(output), **options},
    )
    algo.initialize({ExtraItems.CLIENT_NAME: site})
    return algo


def weights_of(algo):
    """A copy of what a site sends."""
    return copy.deepcopy(algo.get_weights().weights)


def update(algo, weights):
    """What a round at a site makes of weights."""
    algo.train(ExchangeObject(weights=copy.deepcopy(weights)))
    return weights_of(algo)


def average(updates, counts):
    """Means weighted by numbers of images, in the order and precision of NVFlare's.

    Another order would move weights that no loss sees, such as a bias before a normalisation: AdamW takes a full step
    by the sign of a gradient that is nothing but rounding.
    """
    share = 1.0 / sum(counts)
    return {
        name: sum(one[name] * count for one, count in zip(updates, counts, strict=True)) * share for name in updates[0]
    }
