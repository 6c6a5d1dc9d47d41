"""One of several processes of a test: joins the others, then runs commands of a list in turn.

``python hosts_worker.py PORT PROCESSES ID COMMANDS.json``; the exit code is that of the first
command that failed.
"""

import json
import sys
from pathlib import Path

from memjax.cli.main import main
from memjax.runtime import hosts

if __name__ == "__main__":
    port, count, number = (int(text) for text in sys.argv[1:4])
    if count > 1:
        hosts.start(hosts.Cluster(f"127.0.0.1:{port}", count, number), start_seconds=120)
        hosts.hush()
    for command in json.loads(Path(sys.argv[4]).read_text()):
        code = main(command)
        if code:
            sys.exit(code)
