"""Drivers that cost no imports: for each line of stdin, environment and arguments, a fork of this process is clipline.

Answers each with a line, the exit code; that of a killed process is negative.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import points

# What a driver imports on its way.
import workflows.report.summary
import workflows.run.driver  # noqa: F401
from infra.tracking.address import Address
from infra.tracking.client import open_client
from workflows.cli import app


def main() -> None:
    points.install_mlflow()
    open_client(Address(f"sqlite:///{os.environ[points.FOLDER]}/mlflow.db"))  # making one takes MLflow seconds
    say("ready")
    for line in sys.stdin:
        environment, words = json.loads(line)
        child = os.fork()
        if not child:
            _run(environment, words)
        _, status = os.waitpid(child, 0)
        say(os.waitstatus_to_exitcode(status))


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _run(environment: dict[str, str], words: list[str]) -> None:
    """Be ``clipline``, and end."""
    os.environ.update(environment)
    log = os.open(Path(environment["CLIPLINE_ROOT"]).with_name("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["clipline", *words]
    code = 1
    try:
        app.main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        os._exit(code)


main()
