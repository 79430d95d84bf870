"""The commands that run the bundle's workflows, with the options of the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from monai_fusenet.cli.merging import merged, misfit, read_config
from monai_fusenet.cli.presets import Preset, nearest, preset_names
from monai_fusenet.options import CONFIGS, GROUPS, OPTIONS, Option, shipped_configs
from monai_fusenet.options.kinds import ACCEPTED, FILE, FOLDER, SWITCH
from monai_fusenet.shipped import config_files, shipped

__all__ = ["WORKFLOW_COMMANDS", "Task", "WorkflowCommand"]

PATHS = (FOLDER, FILE, ACCEPTED)
SHORT = {"output_dir": "--output", "accepted_dir": "--accepted", "predictions_dir": "--predictions"}
OF_MONAI = ("meta_file", "logging_file", "tracking", "init_id", "final_id")  # what `monai.bundle run` takes, besides
OWN = ("preset", "bundle")  # options of the command, and not of the bundle
EXTRA = f"{__name__}.extra"


class Task(NamedTuple):
    """A command that runs a workflow.

    Attributes:
        command: its name.
        run_id: its name in the bundle.
        help: its purpose in one sentence.
        needs_folder: whether it cannot run on the sample images.
        other_bundles: whether it can run another bundle instead of the one in the package.
    """

    command: str
    run_id: str
    help: str
    needs_folder: bool = False
    other_bundles: bool = False


class Text(click.ParamType):
    """A value as text; MONAI's command line reads and checks it."""

    def __init__(self, name: str, choices: Iterable[str] = (), completes: str = "plain") -> None:
        self.name = name
        self.choices = tuple(choices)
        self.completes = completes

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The possible values, or files, or folders."""
        found = [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type=self.completes)]


def _default_of(option: Option, config: Mapping[str, Any]) -> str:
    """The default as a command line would have it."""
    if option.overlays:
        return f"that of the preset {' or '.join(option.overlays)}"
    value = config[option.name]
    if str(value).startswith("$"):
        return "computed"
    return f"that of {_dashed(value[1:])}" if str(value).startswith("@") else str(value)


def _table_option(option: Option, config: Mapping[str, Any]) -> click.Option:
    """An option of the table as the command line has it."""
    names = [_dashed(option.name)]
    if option.name in SHORT:
        names.insert(0, SHORT[option.name])
    if option.kind is SWITCH:
        kind = Text("switch", ("True", "False"))
    elif option.kind in PATHS:
        kind = Text(option.kind.text, completes="file" if option.kind is FILE else "dir")
    else:
        kind = Text("value", re.findall(r'"(\w+)"', option.kind.text))
    # A switch alone means True, as in MONAI's line.
    alone: dict[str, Any] = {"is_flag": False, "flag_value": "True"} if option.kind is SWITCH else {}
    metavar = "[True|False]" if option.kind is SWITCH else kind.name.upper()
    return click.Option(
        [option.name, *names],
        type=kind,
        metavar=metavar,
        help=f"{option.help} [{option.kind.text}; default: {_default_of(option, config)}]",
        **alone,
    )


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _underscored(name: str) -> str:
    return name.replace("-", "_")


def _extra_option(name: str) -> click.Option:
    """An option of the command line that is not in the table."""
    option = click.Option(["extra", _dashed(name)], is_flag=False, flag_value="True")
    option.name = name  # inferer#steps is no name that click would take
    return option


class WorkflowCommand(click.Command):
    """A workflow of the bundle, with all options of the table that it has.

    Names may have underscores instead of dashes. Arguments of blocks (`--inferer#steps 20`) and all other top-level
    keys of the configs are passed on unchanged.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        metavar = "FOLDER" if task.needs_folder else "[FOLDER]"
        folders = Text("folder", completes="dir")
        params: list[click.Parameter] = [click.Argument(["folder"], required=False, metavar=metavar, type=folders)]
        params.append(
            click.Option(
                ["--preset"],
                multiple=True,
                type=Preset(),
                metavar="NAME",
                help="Preset for the kind of images or the method: a name from the list below, or a .yaml file. May be "
                "given several times; later presets override earlier ones.",
            )
        )
        if task.other_bundles:
            told = "Run another bundle, such as the model of a distillation in output/distillation/model."
            params.append(click.Option(["--bundle"], type=folders, metavar="FOLDER", help=told))
        config = shipped_configs()[task.run_id]
        table = {option.name: option for option in OPTIONS if task.run_id in option.workflows}
        params += [_table_option(option, config) for option in table.values()]
        super().__init__(
            task.command,
            params=params,
            help=task.help,
            short_help=task.help,
            epilog="Write values as on MONAI's command line: True, [256,256], None for null. Every other value of "
            "the configs is an option, too; for values in blocks use #, for example --foreground#objects 2.",
            context_settings={
                "token_normalize_func": lambda name: name.replace("_", "-"),
                "max_content_width": 110,
                "help_option_names": ["--help"],
            },
        )

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of the table, and those that this command line adds."""
        return [*super().get_params(ctx), *ctx.meta.get(EXTRA, [])]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Accepts all options that are not in the table; they are checked later, together with the presets."""
        options = args[: args.index("--")] if "--" in args else args
        for word in options:
            if re.match("-[A-Za-z]{2}", word):
                ctx.fail(f"unknown option {word}; names of options begin with two dashes: -{word}")
        names = [word.partition("=")[0][2:] for word in options if re.match("--[A-Za-z_]", word)]
        known = {opt for param in self.get_params(ctx) for opt in param.opts}
        ctx.meta[EXTRA] = [
            _extra_option(name) for name in dict.fromkeys(map(_underscored, names)) if _dashed(name) not in known
        ]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options in the groups of the table, and the presets."""
        params = {param.name: param for param in self.get_params(ctx) if isinstance(param, click.Option)}
        sections: dict[str, list[tuple[str, str]]] = {}
        for title, names in {"Preset and bundle": OWN, **GROUPS, "Other": ("help",)}.items():
            records = (params[name].get_help_record(ctx) for name in names if name in params)
            sections[title] = [record for record in records if record]
            if names is OWN:
                sections["Presets"] = list(preset_names().items())
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> None:
        """Runs the bundle's line."""
        from monai_fusenet.cli.line import bundle_line, run_line  # with the parser of MONAI's command line

        files = self._files(ctx)
        ours = [shipped(name).resolve() for name in ("bundles", "configs")]
        known = all(any(Path(file).resolve().is_relative_to(folder) for folder in ours) for file in files)
        run_line(bundle_line(self.task.run_id, files, self._values(ctx)), known)

    def _files(self, ctx: click.Context) -> list[str]:
        name = CONFIGS[self.task.run_id]
        files = config_files(name, *ctx.params["preset"])
        bundle = ctx.params.get("bundle")
        if bundle is not None:
            files[0] = str(Path(bundle).expanduser() / "configs" / f"{name}.json")
            if not Path(files[0]).is_file():
                scored = "; its masks are scored by evaluate FOLDER --predictions MASKS" if name == "evaluate" else ""
                ctx.fail(f"{bundle} is no bundle for this command: there is no {files[0]}{scored}")
        self._check_presets(ctx, files)
        return files

    def _check_presets(self, ctx: click.Context, files: Sequence[str]) -> None:
        """Ends the command where a preset cannot be read or does not fit, or where two of the package are methods."""
        try:
            whole = read_config(files[0])
        except (ValueError, OSError) as error:  # of another bundle
            ctx.fail(f"the config {files[0]} cannot be read: {error}")
        methods = []
        for name, file in zip(ctx.params["preset"], files[1:], strict=True):
            try:
                content = read_config(file)
            except (ValueError, OSError) as error:
                ctx.fail(f"the preset {name} cannot be read: {error}")
            whole |= merged([content])
            for key in content:
                if reason := misfit(whole, key):
                    ctx.fail(f"the preset {name} does not fit {files[0]}: it sets {key}, but {reason}")
            if "network_def" in content and name in preset_names():
                methods.append(name)
        if len(methods) > 1:
            ctx.fail(f"{' and '.join(methods)} are different methods: give one of them")

    def _values(self, ctx: click.Context) -> dict[str, str]:
        """What the line says of options, in the order of the command."""
        from monai_fusenet.cli.line import verbatim

        table = {option.name: option for option in OPTIONS}
        params = dict(ctx.params)
        folder = params.pop("folder")
        given = {name: value for name, value in params.items() if value is not None and name not in OWN}
        if folder is not None and "dataset_dir" in given:
            ctx.fail("FOLDER and --dataset-dir are the same thing: give one of them")
        if folder is None and "dataset_dir" not in given and self.task.needs_folder:
            ctx.fail(f"{self.name} needs FOLDER, the folder of images")
        for name in given:
            if name not in table:
                self._check_known(ctx, name)
        values = {} if folder is None else {"dataset_dir": verbatim(_existing(ctx, folder))}
        for name, value in given.items():
            is_path = name in table and table[name].kind in PATHS
            values[name] = verbatim(value) if is_path and _is_text(value) else value
        return values

    def _check_known(self, ctx: click.Context, name: str) -> None:
        """Ends the command where neither the configs nor MONAI know the name of an option.

        The arguments in a block are checked by the bundle.
        """
        config = merged(map(read_config, self._files(ctx)))
        if reason := misfit(config, name):
            ctx.fail(f"unknown option --{name}: {reason}")
        if name in OF_MONAI or re.search("#|::", name) or name in config:
            return
        options = [opt[2:] for param in super().get_params(ctx) for opt in param.opts if opt.startswith("--")]
        near = nearest(_dashed(name)[2:], options, f"{ctx.command_path} --help names all", "--{}")
        ctx.fail(f"unknown option {_dashed(name)}; {near}")


def _is_text(value: str) -> bool:
    """Whether a path is meant as it stands: no null, no expression of a config, and no quotes of its own."""
    return value != "None" and not value.startswith(("$", "@", "%", "'", '"'))


def _existing(ctx: click.Context, folder: str) -> str:
    path = Path(folder).expanduser()
    if not path.exists():
        ctx.fail(f"the folder does not exist: {folder}")
    if not path.is_dir():
        ctx.fail(f"FOLDER must be a folder, got the file {folder}: give the folder that holds it")
    return folder


WORKFLOW_COMMANDS = (
    Task(
        "masks",
        "inference",
        "Makes a mask for each image in FOLDER, without any label; without FOLDER, for the sample images.",
        other_bundles=True,
    ),
    Task("train", "training", "Trains one network on all images in FOLDER; without FOLDER, on the sample images."),
    Task(
        "distill",
        "distillation",
        "Makes one fast model from the images in FOLDER, and from accepted masks of a few of them (--accepted).",
        needs_folder=True,
    ),
    Task(
        "evaluate",
        "evaluation",
        "Scores masks of the images in FOLDER against the true masks there; makes them, or takes --predictions.",
        needs_folder=True,
        other_bundles=True,
    ),
)
