"""A federation in NVFlare's simulator: sites train the bundle's network on their images, a server averages the weights.

python federated/job.py training --sites "['site-1','site-2']" --dataset_dir "data/{site}" --output_dir "output/{site}"
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import torch
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from monai_fusenet.bundle import Context, FuseNetWorkflow
from monai_fusenet.bundle.student_bundle import write_student
from monai_fusenet.bundle.weights import fingerprint
from monai_fusenet.shipped import config_files
from monai_fusenet.utils.checks import check_whole

NETWORKS = {"training": ("train", "network"), "distillation": ("distill", "student_def")}
FOLDERS = ("dataset_dir", "accepted_dir", "output_dir")  # which a site has, and the server has not


class Federation:
    """The network of a federation at its server, which has no image.

    Args:
        workflow: "training" or "distillation".
        workspace: folder of what the server writes.
        overlays: as for `monai_fusenet.shipped.config_files`.
        options: of the workflow, for all sites; `{site}` stands for the name of each.

    Raises:
        ValueError: as the workflow, for a wrong option.
    """

    def __init__(self, workflow: str, workspace: Path, overlays: Sequence[str], options: dict[str, Any]) -> None:
        if workflow not in NETWORKS:
            raise ValueError(f"workflow must be one of {', '.join(NETWORKS)}, got {workflow}")
        name, self.entry = NETWORKS[workflow]
        self.files = [name, f"federated_{name}", *overlays]
        self.workspace = workspace
        self.options = options
        shared = {key: value for key, value in options.items() if key not in FOLDERS}
        self.config = FuseNetWorkflow(
            config_files(*self.files),
            meta_file=None,
            logging_file=False,
            workflow_type="train",
            **{**shared, "output_dir": str(workspace), "device": "cpu"},
        )
        self.config.initialize()
        self.network = self.config.parser.get_parsed_content(self.entry)

    def recipe(self, sites: int, num_rounds: int, local_epochs: int) -> FedAvgRecipe:
        """Writes the first weights and what all sites do, and returns NVFlare's job."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        first = self.workspace / "initial.pt"
        torch.save(self.network.state_dict(), first)
        plan = {"files": self.files, "local_epochs": local_epochs, "options": self.options}
        return FedAvgRecipe(
            name="federation",
            min_clients=sites,
            num_rounds=num_rounds,
            train_script=str(Path(__file__).resolve().with_name("client.py")),
            train_args=json.dumps(plan, separators=(",", ":")).replace(" ", r"\u0020"),  # NVFlare splits it at blanks
            model_persistor=PTFileModelPersistor(source_ckpt_file_full_name=str(first), load_device="cpu"),
        )

    def write(self, weights: Path) -> Path:
        """Writes what the federation has learnt: `model.pt` of a training, the bundle `model` of a distillation."""
        self.network.load_state_dict(torch.load(weights, weights_only=True)["model"])
        if self.entry == "network":
            torch.save(self.network.state_dict(), self.workspace / "model.pt")
            return self.workspace / "model.pt"
        root = self.config.parser.get_parsed_content("bundle_root")
        folder = self.workspace / "model"
        write_student(Context.of(self.config), self.network, fingerprint(self.network), root, folder, {})
        return folder


def main(
    workflow: str,
    sites: Sequence[str],
    workspace: str = "output/federation",
    num_rounds: int = 5,
    local_epochs: int = 1,
    overlays: Sequence[str] = (),
    **options: Any,
) -> None:
    """Trains one network on the images of several sites; the simulator runs each site in a process of its own.

    Args:
        workflow: `training` (FuseNet, self-supervised) or `distillation` (the student).
        sites: their names.
        workspace: where NVFlare and the server write; what an earlier federation has left there goes.
        num_rounds: how often the weights are averaged.
        local_epochs: epochs of a site in a round.
        overlays: names of overlays of this package, or paths of files .yaml.
        **options: of the workflow, see docs/options.md; {site} in a text stands for the site's name.
    """
    if isinstance(sites, str) or not sites or len(set(map(str, sites))) < len(sites):
        raise ValueError(f"sites must be a list of different names, as ['site-1','site-2'], got {sites}")
    if "{site}" not in str(options.get("output_dir", "{site}")):
        raise ValueError(f"output_dir must hold {{site}}, for each site has its own, got {options['output_dir']}")
    check_whole("num_rounds", num_rounds, 1)
    check_whole("local_epochs", local_epochs, 1)
    folder = Path(workspace).resolve()
    if " " in str(folder):
        raise ValueError(
            f"workspace must be a path without blanks, at which NVFlare's simulator splits it, got {folder}"
        )
    # The simulator runs each site in a folder of its own.
    paths = [name for name in (*FOLDERS, "checkpoint") if options.get(name) is not None]
    options |= {name: str(Path(str(options[name])).expanduser().absolute()) for name in paths}
    overlays = [str(Path(one).absolute()) if one.endswith(".yaml") else one for one in overlays]
    federation = Federation(workflow, folder, overlays, options)
    shutil.rmtree(folder / "federation", ignore_errors=True)
    recipe = federation.recipe(len(sites), num_rounds, local_epochs)
    recipe.execute(SimEnv(clients=list(sites), workspace_root=str(folder)))
    weights = folder / "federation" / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    print(f"the network of all sites: {federation.write(weights)}")


if __name__ == "__main__":
    try:
        fire.Fire(main)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
