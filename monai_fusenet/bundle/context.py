"""The workflow that runs a config: found on the stack, or given by a workflow for programs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from monai_fusenet.bundle.faults import cause_of, edge, is_told

__all__ = ["Context", "FuseNetWorkflow", "current_workflow", "find_bundle_root"]

KEY = "workflow"  # of a config, where its expressions find the context


@dataclass(frozen=True, eq=False)
class Context:
    """The context of a running config. Its expressions see only the parser's globals; `@workflow` gives the rest.

    Attributes:
        parser: holds the config, overrides included.
        configs_dir: the folder of the first config file; `None` if only a parser runs the config.
        run_id: the entry that runs; `None` likewise.
    """

    parser: ConfigParser
    configs_dir: Path | None = None
    run_id: str | None = None

    def __deepcopy__(self, memo: dict) -> Context:
        """Itself: MONAI copies what a config holds, and a copied parser would be another one."""
        return self

    @property
    def config(self) -> Mapping[str, Any]:
        """The merged config, as it is written."""
        return _written(self.parser.get())

    def content(self, name: str) -> Any:
        """The evaluated content of an entry of the config."""
        return self.parser.get_parsed_content(name)

    @classmethod
    def of(cls, workflow: ConfigWorkflow) -> Context:
        """The context of MONAI's workflow."""
        return cls(workflow.parser, Path(workflow.config_root_path), workflow.run_id)


@edge
def current_workflow() -> Context:
    """The context of the config that is being evaluated.

    In MONAI an expression cannot access its parser or workflow, but both are on the stack. The configs call this
    function once, under the key `workflow`; nothing else in the package inspects the stack.

    Raises:
        ValueError: when no config is being evaluated.
    """
    parser: ConfigParser | None = None
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if parser is None and isinstance(owner, ConfigParser):
            parser = owner
        # A workflow of another parser runs a config that has this one evaluated inside.
        if parser is not None and isinstance(owner, ConfigWorkflow) and vars(owner).get("parser") is parser:
            return Context.of(owner)
        frame = frame.f_back
    if parser is None:
        raise ValueError("current_workflow must be called by a config that a parser or a workflow evaluates")
    return Context(parser)


@edge
def find_bundle_root(workflow: Context) -> str:
    """The parent of the folder with the running config file.

    If only a parser runs the config, as in MONAI Deploy, it is the folder on Python's path whose
    `configs/inference.json` is this config. MONAI and MONAI Deploy put it there.

    Raises:
        ValueError: when no workflow runs a config file, and no config on the path is this one.
    """
    if workflow.configs_dir is not None:
        return str(workflow.configs_dir.resolve().parent)
    for folder in sys.path:
        file = Path(folder, "configs", "inference.json")
        if file.is_file() and _written(ConfigParser.load_config_file(str(file))) == _written(workflow.parser.get()):
            return str(Path(folder).resolve())
    raise ValueError("the bundle's folder is unknown here: give bundle_root")


def _written(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in (KEY, "_meta_")}


class FuseNetWorkflow(ConfigWorkflow):
    """MONAI's `ConfigWorkflow` for programs: it raises the library's own errors and does not inspect the stack.

    Use it as `ConfigWorkflow`, from a program or by `monai.bundle run --workflow_name
    monai_fusenet.bundle.FuseNetWorkflow`. Arguments are those of `ConfigWorkflow`; `shipped.config_files` names the
    files of a workflow of this package.

    Raises:
        ValueError: by `initialize` and `run`, as are other errors with a clear message of their own. MONAI would raise
            a `RuntimeError` that names the expression and not the reason. All other errors stay inside that
            `RuntimeError`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser[KEY] = Context.of(self)

    def initialize(self) -> Any:
        """Checks the options and builds the parts that need no data; it writes nothing."""
        return self._told(super().initialize)

    def run(self) -> Any:
        """Runs the workflow."""
        return self._told(super().run)

    def _get_property(self, name: str, property: dict) -> Any:
        return self._told(partial(super()._get_property, name, property))

    def _told(self, step: Any) -> Any:
        try:
            return step()
        except RuntimeError as error:
            cause = cause_of(error)
            if cause is error or not is_told(cause):
                raise
            raise cause from None
