"""Entry of `slurm-mig`: parses, runs one command, turns errors into one line and an exit status.

Exit codes: 0 ok, 1 failed, 2 usage, 3 differs or degraded, 75 try again.
"""

import argparse
import io
import os
import sys

from slurm_mig import __version__
from slurm_mig.cli import configuration, demo, doctor, node, setup, sim
from slurm_mig.errors import ConfigError, NoRoom, RequestError, SlurmMigError

FAILED, USAGE, TRY_AGAIN = 1, 2, 75


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="slurm-mig", description="Dynamic NVIDIA MIG under Slurm.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"slurm-mig {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    node.add_parsers(subparsers)
    configuration.add_parser(subparsers)
    doctor.add_parser(subparsers)
    setup.add_parser(subparsers)
    sim.add_parser(subparsers)
    demo.add_parser(subparsers)
    return parser


def main() -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # Names and models come from elsewhere; a locale that cannot print them is no failure.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args()
    try:
        status = int(arguments.func(arguments))
        # Here, where a reader that has gone is expected, and not at the interpreter's end.
        sys.stdout.flush()
    except (ConfigError, RequestError) as error:
        sys.stderr.write(f"slurm-mig: {error}\n")
        return USAGE
    except NoRoom as error:
        sys.stderr.write(f"slurm-mig: {error}\n")
        return TRY_AGAIN
    except SlurmMigError as error:
        sys.stderr.write(f"slurm-mig: {error}\n")
        return FAILED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; nothing more can be printed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
