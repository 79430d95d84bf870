"""What each of two processes does in test_ranks_workflows.py: one workflow after the other, for one price of importing.

`python rank_jobs.py FOLDER` reads `jobs.json` there, a list of the arguments of `call`, and leaves for each rank its
process id at once, and the exit statuses at the end.
"""

import json
import os
import sys
from pathlib import Path

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
(folder / f"pid{rank}").write_text(str(os.getpid()), encoding="utf-8")

from bundle_tools import call  # noqa: E402  (the process id comes first: importing takes seconds)

jobs = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
statuses = [call(job["run_id"], *job["overlays"], **job["options"]) for job in jobs]
(folder / f"statuses{rank}.json").write_text(json.dumps(statuses), encoding="utf-8")
