"""scontrol, scancel, squeue and sinfo of the stand-in: one small client, one server beside it.

The client is a Python program of a few lines that imports next to nothing, since hooks start it
and its start-up is part of what they cost (about as much as the real scontrol: 8 ms). It sends
its arguments over a Unix socket and prints what comes back; all knowledge is on this side.
"""

import contextlib
import os
import shlex
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_mig.rehearsal import records
from slurm_mig.rehearsal.hookenv import hostlist, user_name
from slurm_mig.rehearsal.jobs import Job, StandinError

if TYPE_CHECKING:
    from slurm_mig.rehearsal.standin import Standin

COMMANDS = ("scontrol", "scancel", "squeue", "sinfo")
SOCKET = "standin.sock"

Answer = tuple[int, str, str]

# A client changes into the stand-in's folder first: the address of a Unix socket has room for 107
# bytes only, and test folders are often longer.
_CLIENT = """\
import posix, sys
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socket

name = sys.argv[0].rpartition("/")[2]
try:
    posix.chdir({folder!r})
    link = socket(AF_UNIX, SOCK_STREAM)
    link.connect({socket!r})
    words = [name.removesuffix(".py"), *sys.argv[1:]]
    link.sendall("\\0".join(words).encode("utf-8", "surrogateescape"))
    link.shutdown(SHUT_WR)
    answer = b""
    while chunk := link.recv(65536):
        answer += chunk
    status, out, err = answer.split(b"\\0")
except (OSError, ValueError):
    status, out, err = b"1", b"", b"Unable to contact slurm controller (connect failure)\\n"
for fd, text in ((1, out), (2, err)):
    while text:
        text = text[posix.write(fd, text):]
posix._exit(int(status))
"""


def base_python() -> str:
    """The interpreter under a virtual environment: it starts faster, and nothing else is needed."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def write_commands(folder: Path) -> None:
    """Write the client programs to `folder`/bin."""
    python = base_python()
    text = _CLIENT.format(folder=str(folder), socket=SOCKET)
    for name in COMMANDS:
        path = folder / "bin" / name
        if len(python) < 100 and not any(blank in python for blank in " \t\n"):
            path.write_text(f"#!{python} -ISE\n{text}")
        else:  # what the kernel takes no `#!` line of
            path.with_suffix(".py").write_text(text)
            program = shlex.quote(f"{path}.py")
            path.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} -ISE {program} "$@"\n')
        path.chmod(0o755)


class CommandServer:
    """Answers the client programs of one stand-in until `close`."""

    def __init__(self, standin: "Standin") -> None:
        self._standin = standin
        path = standin.folder / SOCKET
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(standin.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        finally:
            os.close(folder)
        path.chmod(0o666)
        self._listener.listen(64)
        self._threads: set[threading.Thread] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Take no more commands, and wait for those under way."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        (self._standin.folder / SOCKET).unlink(missing_ok=True)
        for thread in list(self._threads):
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(link,), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            link.settimeout(10)
            request = b""
            while chunk := link.recv(65536):
                request += chunk
            argv = request.decode("utf-8", "surrogateescape").split("\0")
            raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            _, uid, _ = struct.unpack("3i", raw)
            status, out, err = answer(self._standin, argv, uid)
            reply = f"{status}\0{out}\0{err}"
            link.sendall(reply.encode("utf-8", "surrogateescape"))
        self._threads.discard(threading.current_thread())


def answer(standin: "Standin", argv: Sequence[str], uid: int = 0) -> Answer:
    """Carry out one command, as user `uid`; its exit status, stdout and stderr."""
    with standin.changed:
        standin.commands.append(tuple(argv))
        program, words = argv[0], list(argv[1:])
        if not standin.reachable:
            what = "Unable to contact slurm controller (connect failure)"
            return 1, "", f"slurm_load_jobs error: {what}\n" if "show" in words else f"{what}\n"
        if "--version" in words or "-V" in words:
            return 0, f"slurm {standin.release}\n", ""
        if program == "scancel":
            return _scancel(standin, words)
        if program == "squeue":
            return _squeue(standin, words)
        if program == "sinfo":
            return _sinfo(standin, words)
        return _scontrol(standin, words)


def _scontrol(standin: "Standin", words: list[str]) -> Answer:
    flags = {word for word in words if word.startswith("-")}
    if "--json" in flags and standin.version < records.OBJECTS:
        hint = 'Try "scontrol --help" for more information'
        return 1, "", f"scontrol: unrecognized option '--json'\n{hint}\n"
    verb, *rest = [word for word in words if not word.startswith("-")] or ["help"]
    verb = verb.lower()
    if verb == "show":
        return _show(standin, rest, flags)
    if verb == "ping":
        return 0, "Slurmctld(primary) at localhost is UP\n", ""
    if verb == "update":
        return _update(standin, rest)
    if verb == "notify" and len(rest) >= 2:
        # Options and text look alike here: what follows the job's number is text.
        text = " ".join(words[words.index(rest[0]) + 1 :])
        return _each(standin, rest[:1], "job notify failure: {}", "notify", text)
    if verb in ("requeue", "requeuehold"):
        return _each(standin, rest, "{} for job {}", verb)
    if verb == "hold" or verb == "release":
        return _each(standin, rest, "{} for job {}", verb)
    return 1, "", f"invalid keyword: {verb}\n"


def _each(standin: "Standin", names: Iterable[str], form: str, verb: str, text: str = "") -> Answer:
    """Do one verb for each job of a list; every refusal is a line on stderr."""
    errors: list[str] = []
    for name in (part for word in names for part in word.split(",") if part):
        try:
            if verb == "notify":
                standin.notify(_number(name), text)
            elif errors_of_array := _change(standin, name, verb):
                errors += errors_of_array
        except StandinError as error:
            errors.append(form.format(error, name))
    return int(bool(errors)), "", "".join(f"{line}\n" for line in errors)


def _change(standin: "Standin", name: str, verb: str) -> list[str]:
    """Requeue, hold or release what a name means; of an array, one line for each task refused."""
    jobs = _jobs(standin, name)
    errors: list[str] = []
    for job in jobs:
        try:
            if verb == "hold":
                standin.hold(job.id)
            elif verb == "release":
                standin.release_job(job.id)
            else:
                standin.requeue(job.id, hold=verb == "requeuehold")
        except StandinError as error:
            if len(jobs) == 1:
                raise
            errors.append(f"{job.array_job_id}_{job.array_task_id}: {error}")
    return errors


def _number(name: str) -> int:
    if not (name.isascii() and name.isdigit()):
        raise StandinError("Invalid job id specified")
    return int(name)


def _jobs(standin: "Standin", name: str) -> list[Job]:
    """The jobs that a name means: a job's number, "16_2", or an array's number for all its tasks.

    The number of an array is also the job id of its last task, and wherever a name is read it
    means the whole array: `scontrol requeue $SLURM_JOB_ID` in that task's Prolog requeues every
    task, and `show job` lists every task, that one first (measured on 22.05.8, 24.11.5, 26.05.5).
    """
    number, underscore, index = name.rpartition("=")[2].partition("_")
    words = (number, index) if underscore else (number,)
    if not all(word.isascii() and word.isdigit() for word in words):
        raise StandinError("Invalid job id specified")
    array = [job for job in standin.jobs.values() if job.array_job_id == int(number)]
    if underscore:
        array = [job for job in array if job.array_task_id == int(index)]
        if not array:
            raise StandinError("Invalid job id specified")
    return sorted(array, key=lambda job: -(job.array_task_id or 0)) or [standin.job(int(number))]


def _show(standin: "Standin", rest: list[str], flags: set[str]) -> Answer:
    what, *names = rest or [""]
    what, equals, value = what.partition("=")
    names = [value, *names] if equals else names
    as_json = "--json" in flags
    detail = bool(flags & {"-d", "--details", "-dd"})
    if what.lower() in ("job", "jobs", "jobid"):
        try:
            jobs = [job for name in names for job in _jobs(standin, name)]
            jobs = jobs or list(standin.jobs.values())
        except StandinError as error:
            if not as_json:
                return 1, "", f"slurm_load_jobs error: {error}\n"
            jobs = []  # an empty list and exit 0 (measured on 24.11.5 and 26.05.5)
        if as_json:
            document = records.job_document(jobs, standin.version, standin.partition, detail=detail)
            return 0, document, ""
        texts = [records.job_text(job, standin.partition, detail=detail) for job in jobs]
        return 0, "".join(texts) or "No jobs in the system\n", ""
    if what.lower() in ("node", "nodes", "nodename"):
        try:
            nodes = [standin.node(name) for name in names] or list(standin.nodes.values())
        except StandinError as error:
            if not as_json:
                return 1, "", f"{error}\n"
            nodes = []
        if as_json:
            return 0, records.node_document(nodes, standin.version, standin.partition), ""
        return 0, "".join(records.node_text(node, standin.partition) for node in nodes), ""
    return 1, "", f"invalid entity: {what}\n"


def _update(standin: "Standin", words: list[str]) -> Answer:
    changes: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        changes[key.lower()] = value
    try:
        if "nodename" in changes:
            for name in changes.pop("nodename").split(","):
                standin.update_node(name, changes)
        elif "jobid" in changes or "job" in changes:
            name = changes.pop("jobid", "") or changes.pop("job", "")
            try:
                for job in _jobs(standin, name):
                    standin.update_job(job.id, changes)
            except StandinError as error:
                return 1, "", f"{error} for job {name}\n"
        else:
            return 1, "", "No valid entity in update command\n"
    except StandinError as error:
        return 1, "", f"slurm_update error: {error}\n"
    return 0, "", ""


def _scancel(standin: "Standin", words: list[str]) -> Answer:
    for name in (part for word in words if not word.startswith("-") for part in word.split(",")):
        # No word about a job that is unknown or over, and exit 0 (measured on all three releases).
        with contextlib.suppress(StandinError):
            for job in _jobs(standin, name):
                standin.cancel(job.id)
    return 0, "", ""


_LONG = {"--nodelist": "-w", "--jobs": "-j", "--format": "-o", "--states": "-t"}


def _squeue(standin: "Standin", words: list[str]) -> Answer:
    options: dict[str, str] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word in ("-h", "--noheader", "-a", "--all", "--json"):
            options[word.replace("--noheader", "-h")] = word
        elif word.startswith("--"):
            key, equals, value = word.partition("=")
            value = value if equals or not queue else queue.pop(0)
            options[_LONG.get(key, key)] = value
        elif word.startswith("-") and len(word) > 2:
            options[word[:2]] = word[2:]
        elif queue:
            options[word] = queue.pop(0)
    everything = list(standin.jobs.values())
    jobs = [job for job in everything if not job.ended or options.get("-t") == "all"]
    if nodes := options.get("-w"):
        jobs = [job for job in jobs if set(job.nodes) & set(nodes.split(","))]
    if numbers := options.get("-j"):
        jobs = [job for job in jobs if str(job.id) in numbers.split(",")]
    if "--json" in options:
        # Of a job that it does not know, 22.05 shows all others (measured).
        jobs = jobs if jobs or standin.version >= records.OBJECTS else everything
        return 0, records.job_document(jobs, standin.version, standin.partition, detail=True), ""
    form = options.get("-o", "%A %j %u %t %N")
    lines = [_format(job, form) for job in jobs]
    if "-h" not in options:
        lines.insert(0, "JOBID")
    return 0, "".join(f"{line}\n" for line in lines), ""


def _sinfo(standin: "Standin", words: list[str]) -> Answer:
    if words != ["--json"] or standin.version >= records.OBJECTS:
        return 1, "", f"sinfo: the stand-in has no answer to {words}\n"
    return 0, records.node_document(standin.nodes.values(), standin.version, standin.partition), ""


def _format(job: Job, form: str) -> str:
    short = {"PENDING": "PD", "RUNNING": "R", "COMPLETING": "CG"}
    index = "" if job.array_task_id is None else f"_{job.array_task_id}"
    values = {
        "%A": str(job.id),
        "%i": f"{job.array_job_id}{index}" if index else str(job.id),
        "%t": short.get(job.state, job.state),
        "%T": job.state,
        "%r": job.reason,
        "%N": hostlist(job.nodes),
        "%j": job.name,
        "%u": user_name(job.identity.uid),
    }
    for key, value in values.items():
        form = form.replace(key, value)
    return form
