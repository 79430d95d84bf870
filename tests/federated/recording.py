"""A filter of NVFlare that notes what leaves a site, the last thing before it is sent."""

import json
from pathlib import Path

from nvflare.apis.filter import Filter


class Recorder(Filter):
    """Writes a line for each result of a site to `<folder>/<site>.jsonl`: all of it, of arrays the shape alone."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def process(self, shareable, fl_ctx):
        content = dict(shareable)
        noted = json.dumps({**content.pop("DXO"), **content}, default=lambda value: list(value.shape))
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with (Path(self.folder) / f"{fl_ctx.get_identity_name()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(noted + "\n")
        return shareable
