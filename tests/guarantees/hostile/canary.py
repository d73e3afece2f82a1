"""What an attacker plants, and how it shows that something of it was run, loaded or written."""

import hashlib
import stat
import subprocess
from functools import cached_property
from pathlib import Path

#: Named like what a hook's Python imports; each says so when it is.
MODULES = ("slurm_mig", "filelock", "pynvml", "json", "sqlite3", "os", "tomllib", "dataclasses")
#: Run by Python itself when it starts.
CUSTOM = ("sitecustomize", "usercustomize")
#: Named like what a script may call.
PROGRAMS = ("python3", "scontrol", "cat", "touch", "printf", "id", "sh", "env", "test")

_LIBRARY = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
unsigned la_version(unsigned version) { return version; }
__attribute__((constructor)) static void mark(void)
{
    int fd = open(MARK, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0) return;
    const char *name = program_invocation_short_name;
    if (write(fd, name, strlen(name)) > 0 && write(fd, "\\n", 1) > 0) close(fd);
}
"""


class Canary:
    """A folder `tree` that nothing may change, `plants` full of traps, and `marks` they leave."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        self.marks, self.tree, self.plants = (folder / n for n in ("marks", "tree", "plants"))
        for path in (self.marks, self.tree, self.plants):
            path.mkdir()
            path.chmod(0o777)
        (self.tree / "file").write_text("alive")
        (self.tree / "folder").mkdir()
        (self.tree / "folder/file").write_text("alive too")
        for name in (*MODULES, *CUSTOM):
            (self.plants / f"{name}.py").write_text(f"open({str(self.mark(name))!r}, 'w')\n")
        for name in PROGRAMS:
            self.program(name)
        (self.plants / "rc").write_text(f": >{self.mark('rc')}\n")
        self._before = self.snapshot()

    @cached_property
    def library(self) -> Path:
        """A shared library that writes down who loads it."""
        library = self.plants / "mark.so"
        source = self.plants / "mark.c"
        source.write_text(_LIBRARY)
        subprocess.run(
            [
                "/usr/bin/cc",
                "-shared",
                "-fPIC",
                f'-DMARK="{self.loaded}"',
                "-o",
                library,
                source,
            ],
            check=True,
            timeout=60,
        )
        return library

    def mark(self, name: str) -> Path:
        """The file that appears when a trap goes off."""
        return self.marks / name

    @property
    def loaded(self) -> Path:
        """Where the library writes the name of each program that loads it."""
        return self.marks.parent / "loaded"

    def program(self, name: str) -> None:
        """Plant a program that leaves a mark."""
        path = self.plants / name
        path.write_text(f"#!/bin/sh\n: >{self.mark(f'program-{name}')}\n")
        path.chmod(0o755)

    def snapshot(self) -> dict[str, tuple[object, ...]]:
        """Everything in the tree and among the plants and marks: type, mode, owner, content."""
        found: dict[str, tuple[object, ...]] = {}
        for root in (self.tree, self.plants, self.marks):
            for path in (root, *root.rglob("*")):
                status = path.lstat()
                content = ""
                if stat.S_ISREG(status.st_mode):
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = (
                    *(status.st_mode, status.st_uid, status.st_gid),
                    content,
                )
        return found

    def settled(self) -> None:
        """Whatever is there now is what has to stay."""
        self._before = self.snapshot()

    def alive(self) -> None:
        """Assert that nothing was changed, made or set off."""
        assert self.snapshot() == self._before

    def who_loaded(self) -> list[str]:
        """The programs that loaded the library, each time that they did."""
        return self.loaded.read_text().split() if self.loaded.exists() else []

    def environment(self) -> dict[str, str]:
        """All variables that make a program load, run, read or write something."""
        here, mark = str(self.plants), f"$(touch {self.mark('evaluated')})"
        rc = f"{here}/rc"
        return {
            "LD_PRELOAD": str(self.library),
            "LD_LIBRARY_PATH": here,
            "GLIBC_TUNABLES": "glibc.malloc.check=3",
            "MALLOC_TRACE": f"{self.marks}/malloc",
            "GCONV_PATH": here,
            "LOCPATH": here,
            "NLSPATH": f"{here}/%N",
            "LANGUAGE": "xx",
            "LANG": "xx_XX.EVIL",
            "LC_ALL": "tr_TR.ISO-8859-9",
            "PYTHONPATH": here,
            "PYTHONSTARTUP": f"{here}/json.py",
            "PYTHONINSPECT": "1",
            "PYTHONHOME": here,
            "PYTHONUSERBASE": here,
            "PYTHONPYCACHEPREFIX": str(self.marks),
            "PYTHONWARNINGS": "error",
            "PYTHONMALLOC": "no such",
            "PYTHONUTF8": "7",
            "PYTHONHASHSEED": "bad",
            "PYTHONIOENCODING": "ascii",
            "PYTHONPLATLIBDIR": here,
            "PYTHONTRACEMALLOC": "x",
            "PYTHONPROFILEIMPORTTIME": "1",
            "PYTHONDEBUG": "9",
            "PATH": here,
            "CDPATH": here,
            "HOME": here,
            "TMPDIR": str(self.marks),
            "IFS": "/0123456789",
            "ENV": rc,
            "BASH_ENV": rc,
            "PS4": mark,
            "PS1": mark,
            "SHELLOPTS": "xtrace:noglob",
            "BASHOPTS": "extdebug",
            "PROMPT_COMMAND": mark,
            "OPENSSL_CONF": rc,
            "SQLITE_TMPDIR": str(self.marks),
            "TZ": f":{here}/pipe",
            "SLURM_CLUSTERS": "other",
            "SLURM_TIME_FORMAT": "relative",
            "SHELL": f"{here}/sh",
            "EDITOR": mark,
            "PAGER": mark,
            "_": mark,
            "OLDPWD": here,
            "PWD": here,
            "SPANK_LD_PRELOAD": str(self.library),
            "SPANK_X": mark,
        }
