"""Configuration file, wrong pynvml, container toolkit, programs that hold instances."""

import os
import sys

import pytest

from slurm_mig.doctor.host_checks import wrong_pynvml

WHY = "it names the library that root loads, so root alone may be able to change it"


def test_configuration(host):
    """Read, and root's; files of config.d too."""
    more = host.folder / "n1/config.d"
    more.mkdir()
    (more / "site.toml").write_text("[prolog]\nmisses = 3\n")
    assert host.found("config.file") == [
        "ok ~/n1/config.toml: owned by uid 0, mode 0644",
        "ok ~/n1/config.d/site.toml: owned by uid 0, mode 0644",
    ]


def test_configuration_of_somebody_else(host):
    """A file that others can write decides which library root loads."""
    host.config.chmod(0o664)
    assert host.found("config.file") == [
        (
            f"failure ~/n1/config.toml: owned by uid 0, mode 0664: {WHY}; mend: chown root:root "
            "~/n1/config.toml && chmod go-w ~/n1/config.toml"
        )
    ]
    host.config.chmod(0o644)
    os.chown(host.config.parent, 4242, 0)
    assert host.found("config.file") == [
        (
            f"failure ~/n1/config.toml: ~/n1 is owned by uid 4242, mode 0755: {WHY}; mend: chown "
            "root:root ~/n1 && chmod go-w ~/n1"
        )
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[state\n", "~/n1/config.toml: not valid TOML: "),
        ("\udcff", "~/n1/config.toml: not valid TOML: "),
        ("[stat]\n", "~/n1/config.toml: unknown section [stat]; did you mean 'state'?"),
        ('[state]\ndirectory = "x"\n', "~/n1/config.toml: [state] directory must be "),
    ],
)
def test_broken_configuration(host, text, said):
    """What is wrong in it, and one line for all that needs it."""
    host.config.write_bytes(text.encode(errors="surrogateescape"))
    first, second = host.found("config.file", "driver.library", "state.ledger")[1:]
    assert first.startswith(f"failure configuration: {said}")
    assert first.endswith(
        ": no hook runs with it: every MIG job drains the node; mend: correct it, then: slurm-mig "
        "config --config ~/n1/config.toml"
    )
    assert second == (
        "warning driver library, ledger: could not look: the node's configuration cannot be read"
    )


def test_no_configuration(host):
    """A file that was named and is not there."""
    host.config.unlink()
    assert host.found("config.file") == [
        (
            "failure configuration: ~/n1/config.toml: no such configuration file: no hook runs "
            "with it: every MIG job drains the node; mend: correct it, then: slurm-mig config "
            "--config ~/n1/config.toml"
        )
    ]


def site(folder, *distributions, module="pynvml.py"):
    """A folder of packages: (name, version) each, and a module pynvml."""
    folder.mkdir()
    for name, version in distributions:
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if module:
        path = folder / module
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    return folder


def pynvml(folder, *paths):
    """What is said of the module in these folders."""
    found = [f"{f.level} {f.text()}" for f in wrong_pynvml([str(path) for path in paths])]
    return [line.replace(str(folder), "~").replace(sys.executable, "python") for line in found]


def test_right_pynvml(tmp_path):
    """The module is nvidia-ml-py's, and nothing else is there."""
    there = site(tmp_path / "site", ("nvidia-ml-py", "13.1"))
    assert pynvml(tmp_path, there) == ["ok pynvml: nvidia-ml-py 13.1, ~/site/pynvml.py"]


def test_deprecated_pynvml_beside(tmp_path):
    """The deprecated package beside it: its older versions overwrite the module."""
    there = site(tmp_path / "site", ("nvidia_ml_py", "13.1"), ("pynvml", "11.5.3"))
    assert pynvml(tmp_path, there) == [
        (
            "warning pynvml: the package pynvml 11.5.3 is installed beside nvidia-ml-py: it is "
            "deprecated, and versions below 12 overwrite NVIDIA's module; mend: python -m pip "
            "uninstall pynvml && python -m pip install --force-reinstall nvidia-ml-py"
        )
    ]


def test_pynvml_in_the_way(tmp_path):
    """A package pynvml before it, or beside it: packages go before modules."""
    ours = site(tmp_path / "site", ("nvidia-ml-py", "13.1"))
    other = site(tmp_path / "other", ("pynvml", "8.0.4"), module="pynvml/__init__.py")
    assert pynvml(tmp_path, other, ours) == [
        (
            "failure pynvml: ~/other/pynvml/__init__.py is in the way of nvidia-ml-py's "
            "~/site/pynvml.py: it does not have the calls that make instances; mend: python -m pip "
            "uninstall pynvml"
        )
    ]
    stray = site(tmp_path / "stray")
    assert pynvml(tmp_path, stray, ours) == [
        (
            "failure pynvml: ~/stray/pynvml.py is in the way of nvidia-ml-py's ~/site/pynvml.py: "
            "it does not have the calls that make instances; mend: remove ~/stray/pynvml.py"
        )
    ]


def test_no_pynvml(tmp_path):
    """Not installed, or only the deprecated one."""
    line = (
        "failure nvidia-ml-py: not installed for python: nothing can talk to the driver; mend: "
        "python -m pip install nvidia-ml-py"
    )
    assert pynvml(tmp_path, site(tmp_path / "none", module=None)) == [line]
    assert pynvml(tmp_path, site(tmp_path / "old", ("pynvml", "11.5.3"))) == [line]


def test_this_pynvml(host):
    """The one that the tests run with is the right one."""
    (line,) = host.found("host.pynvml")
    assert line.startswith("ok pynvml: nvidia-ml-py ")


CTK = """#!/bin/sh
echo 'NVIDIA Container Toolkit CLI version {}'
echo 'commit: 62bd015475656ef795cb0d59cc4030a6bd4a9526'
"""
CLI = """#!/bin/sh
/bin/cat <<.
cli-version: {}
lib-version: 1.0.0
build date: 2023-07-18T11:40+00:00
.
"""
OLD_CLI = "#!/bin/sh\necho 'version: {}'\necho 'build date: 2020-01-21T18:59+00:00'\n"


def test_no_toolkit(host):
    """Containers are not everybody's."""
    assert host.found("host.toolkit") == ["ok NVIDIA Container Toolkit: not installed"]


@pytest.mark.parametrize(
    ("program", "text", "version"),
    [
        ("nvidia-ctk", CTK, "1.18.1"),
        ("nvidia-container-cli", CLI, "1.13.5"),
        ("nvidia-container-cli", OLD_CLI, "1.3.0"),
    ],
)
def test_toolkit(host, program, text, version):
    """The programs count as the toolkit does; 1.3.0 came with nvidia-docker2 2.5.0."""
    host.program(host.bin / program, text.format(version))
    assert host.found("host.toolkit") == [f"ok ~/bin/{program}: version {version}, at least 1.3.0"]


def test_old_toolkit(host):
    """Before, containers saw no MIG instances."""
    host.program(host.bin / "nvidia-container-cli", OLD_CLI.format("1.0.7"))
    assert host.found("host.toolkit") == [
        (
            "failure ~/bin/nvidia-container-cli: version 1.0.7, older than 1.3.0 (which came with "
            "nvidia-docker2 2.5.0): containers do not see MIG instances; mend: update the package "
            "nvidia-container-toolkit"
        )
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "#!/bin/sh\necho hello\n",
            ("warning ~/bin/nvidia-ctk: could not look: no version in what --version prints"),
        ),
        (
            "#!/bin/sh\necho no such thing >&2\nexit 3\n",
            (
                "warning NVIDIA Container Toolkit: could not look: ~/bin/nvidia-ctk --version: "
                "exit 3: no such thing"
            ),
        ),
        (
            "#!/bin/sh\nexec /bin/sleep 600\n",
            (
                "warning NVIDIA Container Toolkit: could not look: ~/bin/nvidia-ctk --version: did "
                "not end within 0.5 s"
            ),
        ),
        (
            "#!/nowhere/sh\n",
            (
                "warning NVIDIA Container Toolkit: could not look: ~/bin/nvidia-ctk --version: "
                "cannot be run: No such file or directory"
            ),
        ),
    ],
)
def test_toolkit_that_cannot_be_asked(host, text, line):
    """A program that hangs, fails or says something else is not the end."""
    host.program(host.bin / "nvidia-ctk", text)
    assert host.found("host.toolkit") == [line]


def test_nobody_holds_instances(host):
    """Other processes are of no interest, nvidia-persistenced among them."""
    host.process(10, "nvidia-persiste")
    assert host.found("host.holders") == ["ok DCGM, device plugins: none runs"]


def test_dcgm(host):
    """DCGM keeps instances open; whether it does now is seen by what it has open."""
    why = "an instance that it holds cannot be removed after its job, and is quarantined"
    host.process(4711, "nv-hostengine", host.sim.root / "dev/nvidia-caps/nvidia-cap2")
    host.process(4712, "dcgm-exporter", host.config)
    assert sorted(host.found("host.holders")) == [
        (
            f"warning DCGM (pid 4711, nv-hostengine): has instances open now: {why}; mend: "
            "systemctl disable --now nvidia-dcgm"
        ),
        (
            f"warning DCGM's exporter (pid 4712, dcgm-exporter): runs: {why}; mend: systemctl "
            "disable --now dcgm-exporter"
        ),
    ]
