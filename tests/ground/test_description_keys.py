"""Keys outside the node groups that cannot be: each a sentence with file, line and key."""

import pytest
from describing import NODES, refused

S = "c.toml:1: [slurm] "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[slrum]\nrelease = "24.11"\n',
            "c.toml:1: [slrum]: unknown section; did you mean 'slurm'?",
        ),
        (
            'hosts = "a"\n',
            "c.toml:1: hosts = …: a key must stand in a section",
        ),
        ("slurm = 3\n", "c.toml:1: [slurm]: must be a table, not 3"),
        ("node = 3\n", "c.toml:1: [node]: must be a table, not 3"),
        ('slurm.relase = "24.11"\n', S + "relase: unknown key; did you mean 'release'?"),
        (
            "slurm.release = 24.11\n",
            S + 'release: must be a Slurm release such as "24.11", not 24.11',
        ),
        (
            'slurm.release = "24.11.5"\n',
            S + "release: must be a Slurm release '24.11', not '24.11.5'",
        ),
        *(
            (
                f'slurm.release = "{release}"\n',
                (
                    f"{S}release: there is no Slurm {release} that slurm-mig knows: "
                    "22.05, 23.02, 23.11, 24.05, 24.11, 25.05, 25.11, 26.05 or newer"
                ),
            )
            for release in ("21.08", "24.08", "22.01", "26.00", "26.13")
        ),
        (
            'slurm.config_directory = "etc"\n',
            S + "config_directory: must be an absolute path, not 'etc'",
        ),
        *(
            (
                f"slurm.config_directory = {path!r}\n",
                (
                    f"{S}config_directory: {path!r} has a character that slurm.conf, systemd or a "
                    "shell would read otherwise; letters, digits and . _ - + @ are safe"
                ),
            )
            for path in ("/a b", "/a%n", "/a#b", '/a"', "/a$b", "/a;b", "/a,b", "/é", "/a*")
        ),
        (
            'slurm.config_directory = "/etc/../slurm/"\n',
            S + "config_directory: '/etc/../slurm/' should be written '/slurm'",
        ),
        (
            'slurm.gres_types = "gpu"\n',
            S + 'gres_types: must be a list of strings such as ["a", "b"], not \'gpu\'',
        ),
        ('slurm.gres_types = ["gpu", "gpu"]\n', S + "gres_types: names 'gpu' twice"),
        (
            'slurm.gres_types = ["gpu,nic"]\n',
            S + "gres_types: 'gpu,nic' is no name of a GRES; one looks like gpu or nic",
        ),
        (
            'slurm.accounting_tres = ["gres/gpu,cpu"]\n',
            (
                f"{S}accounting_tres: 'gres/gpu,cpu' is no trackable resource; "
                "one looks like gres/gpu or gres/gpu:h100"
            ),
        ),
        (
            'slurm.accounting = false\nslurm.accounting_tres = ["gres/gpu"]\n',
            (
                "c.toml:2: [slurm] accounting_tres: slurmctld takes none without a slurmdbd; "
                "leave it out, or say accounting = true"
            ),
        ),
        ("slurm.accounting = 1\n", S + "accounting: must be true or false, not 1"),
        (
            'slurm.prolog_flags = ["Aloc"]\n',
            S + "prolog_flags: unknown flag 'Aloc'; did you mean 'Alloc'?",
        ),
        (
            'slurm.prolog_flags = ["serial"]\n',
            (
                f"{S}prolog_flags: Serial cannot be used with slurm-mig: "
                "a Prolog that waits for space would wait for an Epilog that Slurm holds back"
            ),
        ),
        (
            'slurm.prolog_flags = ["RunInJob"]\n',
            (
                f"{S}prolog_flags: RunInJob cannot be used with slurm-mig: "
                "the Prolog could then open only the GPUs of its job, and a mig job has none"
            ),
        ),
        (
            'slurm.prolog_flags = ["NoHold", "X11"]\n',
            S + "prolog_flags: Slurm cannot combine NoHold with Contain or X11; leave it out",
        ),
        (
            'slurm.job_submit_plugins = ["my plugin"]\n',
            S + "job_submit_plugins: 'my plugin' is no name of a plugin; "
            "one looks like all_partitions",
        ),
        ('slurm.prolog_flags = ["X11", "x11"]\n', S + "prolog_flags: names 'X11' twice"),
        (
            'slurm.prolog_flags = ["ForceRequeueOnFail"]\nslurm.release = "22.05"\n',
            S + "prolog_flags: ForceRequeueOnFail is there from Slurm 23.02 on, and this is 22.05",
        ),
        (
            'job_submit.token = "admin_comment"\n',
            (
                "c.toml:1: [job_submit] token: "
                'must be "auto", "extra", "comment" or "none", not \'admin_comment\''
            ),
        ),
        (
            'job_submit.token = "extra"\nslurm.release = "22.05"\n',
            (
                'c.toml:1: [job_submit] token: a job has no field "extra" before Slurm 23.02, and '
                'this is 22.05; write "comment" or "none"'
            ),
        ),
        ("elastic.enabled = 1\n", "c.toml:1: [elastic] enabled: must be true or false, not 1"),
        (
            'elastic.anchor = "a[1-2]"\n',
            "c.toml:1: [elastic] anchor: must be the name of one node, not 'a[1-2]'",
        ),
        (
            'elastic.anchor_conf = "Gres=mig:1"\n',
            "c.toml:1: [elastic] anchor_conf: Gres= is written by slurm-mig; leave it out",
        ),
        (
            'node.state.directory = "here"\n',
            "c.toml:1: [node.state] directory: must be an absolute path, not 'here'",
        ),
        (
            'node.state.directory = "/a b"\n',
            (
                "c.toml:1: [node.state] directory: '/a b' has a character that slurm.conf, systemd "
                "or a shell would read otherwise; letters, digits and . _ - + @ are safe"
            ),
        ),
        (
            "node.driver.library = 'a\"b'\n",
            (
                "c.toml:1: [node.driver] library: 'a\"b' has a character that may not be there: "
                "printable ASCII without quotes and backslashes"
            ),
        ),
        (
            'node.state.dirctory = "/a"\n',
            "c.toml:1: [node.state] dirctory: unknown key; did you mean 'directory'?",
        ),
        (
            'node.stat.directory = "/a"\n',
            "c.toml:1: [node.stat]: unknown section; did you mean 'state'?",
        ),
        ("node.state = 3\n", "c.toml:1: [node.state]: must be a table, not 3"),
        (
            'node.layout.default = "small"\n',
            "c.toml:1: [node.layout]: layout is made from the node groups; leave it out",
        ),
        (
            'node.gpus.mig = "all"\n',
            "c.toml:1: [node.gpus]: gpus is made from the node groups; leave it out",
        ),
        (
            'node.slurm.request = "token"\njob_submit.token = "none"\n',
            (
                'c.toml:1: [node.slurm] request: it cannot be "token" while [job_submit] token is '
                "none: no job would carry one"
            ),
        ),
        (
            "slurm = {\n",
            "c.toml:1: not valid TOML: Invalid initial character for a key part (column 10)",
        ),
    ],
)
def test_bad_keys(text: str, message: str) -> None:
    """What is wrong outside the node groups, in one sentence with its place."""
    rest = "" if "slurm.release" in text else 'slurm.release = "24.11"\n'
    tail = '[layout]\ndefault = "small"\n' + NODES
    if "slurm" in text.split("=")[0] and "slurm." not in text:
        rest = ""
    if text.startswith("[") or text.endswith("{\n"):
        rest = ""
    assert refused(text + rest + tail) == message
