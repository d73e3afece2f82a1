"""What the hooks' sh and the task prolog read of a job: `<run>/jobs/<job id>/`.

The folder's existence means "this job has, or may have, instances here": it is made before the
intent and removed after the last instance is gone, so an Epilog without it may leave from sh.
`env` holds lines that the task prolog prints to slurmstepd as they are; `refuse` holds one line,
the reason why this job's tasks must not run. Written by root, read by the job's user. `instances`,
for root alone, says which instances the job was handed; it is there from before `env` until their
removal begins, and is what reconcile believes when the ledger is lost (books.py). `begun-ROW` says
that the driver was asked for what this row of the ledger wants: without it, what stands there is
not ours.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from slurm_mig.ancestors import weak
from slurm_mig.errors import NodeFault, one_line

ENV = "env"
REFUSE = "refuse"
INSTANCES = "instances"


def environment(uuids: list[str], profiles: list[str]) -> dict[str, str]:
    """The variables of a job with these instances, in order."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(uuids),
        "SLURM_MIG_DEVICES": ",".join(uuids),
        "SLURM_MIG_PROFILES": ",".join(profiles),
    }


class Handover:
    """The run directory. Raises NodeFault when it cannot be written or is not ours."""

    def __init__(self, run_directory: Path) -> None:
        self.jobs = run_directory / "jobs"

    def _folder(self, job: int) -> Path:
        return self.jobs / f"{job:d}"

    def open(self, job: int) -> None:
        """Make the job's folder, empty of what an earlier incarnation left in it."""
        try:
            if above := weak(self.jobs.parent):
                raise NodeFault(
                    f"run directory {self.jobs.parent}: {above}, so others can put another in its "
                    "place; name one in [state] run_directory that is in folders of root's alone"
                )
            for path in (self.jobs.parent, self.jobs, self._folder(job)):
                path.mkdir(mode=0o755, parents=path == self.jobs.parent, exist_ok=True)
                status = path.lstat()
                if (
                    not stat.S_ISDIR(status.st_mode)
                    or status.st_uid != os.geteuid()
                    or status.st_mode & 0o022
                ):
                    raise NodeFault(
                        f"run directory {path}: must be a folder of uid {os.geteuid()} that nobody "
                        f"else can write; it belongs to uid {status.st_uid}, mode "
                        f"{stat.S_IMODE(status.st_mode):04o}"
                    )
                # The hooks' umask is theirs; job users must be able to read this.
                path.chmod(0o755)
            for name in (ENV, REFUSE, INSTANCES):
                (self._folder(job) / name).unlink(missing_ok=True)
        except OSError as error:
            raise NodeFault(
                f"run directory {self._folder(job)}: {error.strerror or error}"
            ) from None

    def _write(self, job: int, name: str, text: str, mode: int = 0o644) -> None:
        path = self._folder(job) / name
        draft = path.with_name(f".{name}")
        try:
            draft.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(draft, flags, mode)
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(descriptor, mode)
                file.write(text)
            draft.replace(path)
        except OSError as error:
            raise NodeFault(f"run directory {path}: {error.strerror or error}") from None

    def give(self, job: int, uuids: list[str], profiles: list[str]) -> None:
        """Write what the task prolog exports for a served job."""
        lines = (f"export {k}={v}" for k, v in environment(uuids, profiles).items())
        self._write(job, ENV, "\n".join(lines) + "\n")

    def refuse(self, job: int, reason: str) -> None:
        """Make the task prolog end every task of the job, with this reason."""
        self._write(job, REFUSE, one_line(reason) + "\n")

    def vouch(self, job: int, text: str) -> None:
        """Write down, for `vouched`, which instances the job is about to be handed."""
        self._write(job, INSTANCES, text, 0o600)

    def vouched(self, job: int) -> str:
        """What `vouch` wrote; "" where nothing stands that root alone can have written."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._folder(job) / INSTANCES, flags)
        except OSError:
            return ""
        try:
            status = os.fstat(descriptor)
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            if not ours or status.st_mode & 0o022 or status.st_nlink != 1:
                return ""
            return os.read(descriptor, 1 << 16).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(descriptor)

    def disown(self, job: int) -> None:
        """Take back what `give` and `vouch` wrote: the instances are about to go.

        Whoever makes an instance at the same place next may get the same UUID.
        """
        try:
            for name in (ENV, INSTANCES):
                (self._folder(job) / name).unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise NodeFault(f"run directory {self._folder(job)}: {error.strerror}") from None

    def begin(self, job: int, row: int) -> None:
        """Note that the driver is about to be asked for what this row of the ledger wants.

        A note in memory will do, and costs 10 µs, not a disk's commit: no instance outlives
        the reboot that loses it.
        """
        path = self._begun(job, row)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            os.close(os.open(path, flags, 0o600))
        except OSError as error:
            raise NodeFault(f"run directory {path}: {error.strerror}") from None

    def refused(self, job: int, row: int) -> None:
        """Take back `begin`: the driver made nothing. Never raises; the row is about to go."""
        with suppress(OSError):
            self._begun(job, row).unlink()

    def begun(self, job: int, row: int) -> bool:
        """Whether the driver was ever asked for what this row wants."""
        return os.path.lexists(self._begun(job, row))

    def _begun(self, job: int, row: int) -> Path:
        return self._folder(job) / f"begun-{row:d}"

    def close(self, job: int) -> None:
        """Remove the job's folder; one that is not there is removed already."""
        folder = self._folder(job)
        try:
            if not stat.S_ISDIR(folder.lstat().st_mode):
                folder.unlink()  # rmtree opens it first, and waits for ever if it is a pipe
                return
            shutil.rmtree(folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise NodeFault(f"run directory {self._folder(job)}: {error.strerror}") from None

    def stamp(self, job: int) -> int | None:
        """A number that is another one after each `open` of the job's folder; None without one."""
        try:
            return self._folder(job).lstat().st_ctime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_jobs(self) -> list[int]:
        """The job ids that have a folder. Raises NodeFault."""
        try:
            return sorted(int(p.name) for p in self.jobs.iterdir() if p.name.isdecimal())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise NodeFault(f"run directory {self.jobs}: {error.strerror}") from None
