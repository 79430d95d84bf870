"""`monai-fusenet`: label-free masks of a folder of images, one model from them, and related commands."""

from __future__ import annotations

import signal
import sys

import click

from monai_fusenet import __version__
from monai_fusenet.cli.others import OTHER_COMMANDS
from monai_fusenet.cli.presets import nearest
from monai_fusenet.cli.workflows import WORKFLOW_COMMANDS, WorkflowCommand

__all__ = ["main"]

PROGRAM = "monai-fusenet"
HELP = """Label-free segmentation of medical images: from a folder of images to masks, and to one fast model.

\b
  monai-fusenet masks FOLDER --preset skin
  monai-fusenet annotate FOLDER --open
  monai-fusenet distill FOLDER --accepted ACCEPTED

Results go to output/ in the current folder. The commands masks, train, distill and evaluate first print the equivalent
line of MONAI's bundle. Exit status: 0 all done, 1 nothing could be done, 2 some images failed."""
EPILOG = """To complete commands, options and presets with the Tab key, add one line to the start file of your shell.

\b
  bash (4.4 or later)  ~/.bashrc   eval "$(_MONAI_FUSENET_COMPLETE=bash_source monai-fusenet)"
  zsh                  ~/.zshrc    eval "$(_MONAI_FUSENET_COMPLETE=zsh_source monai-fusenet)"
  fish                 ~/.config/fish/completions/monai-fusenet.fish
                                   _MONAI_FUSENET_COMPLETE=fish_source monai-fusenet | source"""


class Program(click.Group):
    """All commands; those of workflows are built from the configs when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they are used."""
        return [*(workflow.command for workflow in WORKFLOW_COMMANDS), *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        for workflow in WORKFLOW_COMMANDS:
            if workflow.command == cmd_name:
                return WorkflowCommand(workflow)
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Names the nearest command if there is none of that name."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            listed = f"known are {', '.join(known)}"
            raise click.UsageError(f"unknown command {name}; {nearest(name, known, listed)}")
        return super().resolve_command(ctx, args)


program = Program(
    PROGRAM,
    commands=OTHER_COMMANDS,
    help=HELP,
    epilog=EPILOG,
    context_settings={"max_content_width": 110},
)
click.version_option(__version__)(program)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: those after the name of the program; by default those of this process.

    Raises:
        SystemExit: with status 1 and one line if the command line is wrong; otherwise with the status of the bundle.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        program.main(words or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        sys.exit(f"error: {' '.join(error.format_message().split())}")
    except click.Abort:  # before the bundle has begun, which says so itself
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    if not words:
        sys.exit(f"error: no command given; to write bundle and overlays into this folder, run: {PROGRAM} bundle .")
