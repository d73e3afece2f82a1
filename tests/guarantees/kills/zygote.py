"""A warm Python that forks one for each hook: a fifth of the time, and kills hit what matters.

Four fifths of a hook's time are the start of Python and its imports, during which nothing can go
wrong. What slurmd does stays as it is: it starts the hook's sh with its environment in a process
group of its own, and kills that group; only `$PYTHON` is hookstart.c, which asks this program for a
fork. Run as `zygote.py SOCKET PYTHON_PATH FAILPOINTS`; it ends when its standard input does.
"""

import os
import select
import socket
import struct
import sys
from contextlib import suppress


def _receive(connection: socket.socket) -> tuple[list[int], list[bytes]]:
    """The three descriptors and the words that hookstart.c sent."""
    data, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    (size,) = struct.unpack("=I", data)
    text = b""
    while len(text) < size:
        chunk = connection.recv(size - len(text))
        if not chunk:
            raise EOFError
        text += chunk
    return descriptors, text.split(b"\0")[:-1]


def _become(starter: int, descriptors: list[int], words: list[bytes], failpoints: str) -> None:
    """Be the hook's Python: in its process group, with what it was started with."""
    alive = os.pidfd_open(starter)
    os.setpgid(0, os.getpgid(starter))
    # A group keeps its number as long as anybody is in it, dead or not: one that was killed before
    # we joined must not have us.
    if select.select([alive], [], [], 0)[0]:
        os._exit(0)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, 256)
    # As at the start of a Python: these descriptors are others now, a pipe and no file perhaps.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    mask, folder, count, *rest = words
    os.umask(int(mask))
    os.chdir(folder)
    arguments = [os.fsdecode(word) for word in rest[: int(count)]]
    os.environ.clear()
    for variable in rest[int(count) :]:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
    from slurm_mig.rehearsal import failpoints as runner

    runner.main(failpoints, arguments)


def serve(path: str, failpoints: str) -> None:
    """Fork for whoever asks, until standard input ends."""
    poll = select.poll()
    asked: dict[int, tuple[int, socket.socket]] = {}  # by the child's pidfd
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        poll.register(listener, select.POLLIN)
        poll.register(0, select.POLLIN | select.POLLHUP)
        os.write(1, b"ready\n")
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == 0:
                    return
                if descriptor in asked:
                    child, connection = asked.pop(descriptor)
                    poll.unregister(descriptor)
                    os.close(descriptor)
                    _, status = os.waitpid(child, 0)
                    with connection, suppress(OSError):  # killed with its fork
                        connection.send(struct.pack("=i", status))
                    continue
                connection, _ = listener.accept()
                try:
                    descriptors, words = _receive(connection)
                except (OSError, EOFError, struct.error):  # killed while it asked
                    connection.close()
                    continue
                option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                (starter, _, _) = struct.unpack("3i", option)
                child = os.fork()
                if not child:
                    status = 1
                    try:
                        _become(starter, descriptors, words, failpoints)
                        status = 0
                    except ProcessLookupError:  # the hook was killed meanwhile
                        pass
                    except SystemExit as end:
                        status = int(end.code or 0)
                    except BaseException as error:
                        os.write(2, f"zygote: {error!r}\n".encode())
                    finally:
                        sys.stdout.flush()
                        sys.stderr.flush()
                        os._exit(status)
                for each in descriptors:
                    os.close(each)
                handle = os.pidfd_open(child)
                asked[handle] = child, connection
                poll.register(handle, select.POLLIN)


if __name__ == "__main__":
    del sys.path[0]  # this file's folder
    sys.path += sys.argv[2].split(":")
    import slurm_mig.cli.main
    import slurm_mig.epilog
    import slurm_mig.prolog
    import slurm_mig.rehearsal.failpoints  # noqa: F401

    serve(sys.argv[1], sys.argv[3])
