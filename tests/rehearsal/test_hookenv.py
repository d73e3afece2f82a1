"""Which variables slurmd hands to a hook, release by release."""

import os

import pytest

from slurm_mig.rehearsal.hookenv import (
    hook_environment,
    hostlist,
    make_sluid,
    parse_release,
    user_name,
)

# As a running 22.05.8 hands them out (an interactive job with a comment and no -n).
MEASURED_22_05 = {
    "SLURMD_NODENAME",
    "SLURM_CONF",
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_JOB_UID",
    "SLURM_JOB_GID",
    "SLURM_JOB_WORK_DIR",
    "SLURM_JOB_USER",
    "SLURM_JOBID",
    "SLURM_UID",
    "SLURM_NODELIST",
    "SLURM_SCRIPT_CONTEXT",
    "SLURM_JOB_COMMENT",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_JOB_NUM_NODES",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_RESTART_COUNT",
}
EPILOG_ONLY = {"SLURM_JOB_DERIVED_EC", "SLURM_JOB_EXIT_CODE", "SLURM_JOB_EXIT_CODE2"}
SINCE_23_02 = {
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_EXTRA",
    "SLURM_JOB_CORE_SPEC_COUNT",
    "SLURM_JOB_CORE_SPEC_TYPE",
    "SLURM_JOB_START_TIME",
    "SLURM_JOB_END_TIME",
    "SLURM_JOB_OVERSUBSCRIBE",
}


@pytest.mark.parametrize(
    ("release", "added"),
    [
        ("22.05", set()),
        ("22.05.8", set()),
        ("24.11", SINCE_23_02),
        ("25.05", SINCE_23_02),
        ("25.11", SINCE_23_02 | {"SLURM_JOB_SLUID"}),
        ("26.05", SINCE_23_02 | {"SLURM_JOB_SLUID", "SLURM_JOB_EXCLUSIVE"}),
    ],
)
def test_list_of_variables_by_release(release: str, added: set[str]) -> None:
    """Each release adds its variables to the list; only the Epilog learns how the job ended."""
    prolog = hook_environment("prolog", release=release, comment="a b", extra="e")
    epilog = hook_environment("epilog", release=release, comment="a b", extra="e")
    assert set(prolog) == MEASURED_22_05 | added
    assert set(epilog) == set(prolog) | EPILOG_ONLY


def test_values_of_a_job_on_two_nodes() -> None:
    """Node lists are compressed, CPUs are per node, ids are the job's owner's."""
    env = hook_environment("epilog", node="n2", nodes=["n1", "n2"], job_id=42, exit_status=3 << 8)
    expected = {
        "SLURMD_NODENAME": "n2",
        "SLURM_NODELIST": "n[1-2]",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "1(x2)",
        "SLURM_JOB_ID": "42",
        "SLURM_JOBID": "42",
        "SLURM_JOB_UID": str(os.getuid()),
        "SLURM_JOB_USER": user_name(os.getuid()),
        "SLURM_JOB_EXIT_CODE": "768",
        "SLURM_JOB_EXIT_CODE2": "3:0",
        "SLURM_SCRIPT_CONTEXT": "epilog_slurmd",
    }
    assert {name: env[name] for name in expected} == expected


def test_number_of_tasks_is_told_only_if_it_was_asked_for() -> None:
    """SLURM_JOB_NTASKS is there with `srun -n`, and absent without (measured)."""
    assert "SLURM_JOB_NTASKS" not in hook_environment("prolog")
    assert hook_environment("prolog", ntasks=2)["SLURM_JOB_NTASKS"] == "2"


def test_epilog_after_a_requeue_has_the_sluid_of_the_prolog() -> None:
    """The count is one higher, the SLUID is that of the incarnation which ends (measured)."""
    one = make_sluid(7, 0)
    epilog = hook_environment("epilog", release="26.05", job_id=7, restart_count=1, sluid=one)
    prolog = hook_environment("prolog", release="26.05", job_id=7)
    assert epilog["SLURM_JOB_SLUID"] == prolog["SLURM_JOB_SLUID"] == one


def test_a_job_that_a_signal_ended() -> None:
    """EXIT_CODE is the wait status, EXIT_CODE2 its two halves."""
    env = hook_environment("epilog", exit_status=9)
    assert (env["SLURM_JOB_EXIT_CODE"], env["SLURM_JOB_EXIT_CODE2"]) == ("9", "0:9")


def test_spank_variables_come_along_or_not_at_all() -> None:
    """SPANK_ variables reach a hook; one with another name makes slurmd drop them all."""
    good = hook_environment("prolog", spank_env={"SPANK_MODE": "x"})
    assert good["SPANK_MODE"] == "x"
    bad = hook_environment("prolog", spank_env={"SPANK_MODE": "x", "LD_PRELOAD": "evil.so"})
    assert not {"SPANK_MODE", "LD_PRELOAD"} & set(bad)


def test_spank_variables_cannot_replace_slurms_own() -> None:
    """What slurmd itself says wins over what the user sent."""
    env = hook_environment("prolog", job_id=7, spank_env={"SPANK_SLURM_JOB_ID": "8"})
    assert env["SLURM_JOB_ID"] == "7"


def test_each_incarnation_has_its_own_sluid() -> None:
    """Since 25.11 a requeued job has the same number and another SLUID."""
    names = {
        hook_environment("prolog", release="25.11", job_id=job, restart_count=count)[
            "SLURM_JOB_SLUID"
        ]
        for job in (1, 2)
        for count in (0, 1)
    }
    assert len(names) == 4


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["n1"], "n1"),
        (["n1", "n2", "n3"], "n[1-3]"),
        (["n1", "n3", "n4"], "n[1,3-4]"),
        (["gpu08", "gpu09", "gpu10"], "gpu[08-10]"),
        (["a1", "b1"], "a1,b1"),
        (["login", "n1", "n2"], "login,n[1-2]"),
    ],
)
def test_hostlist(names: list[str], text: str) -> None:
    """Node names are printed as Slurm prints them, leading zeros kept."""
    assert hostlist(names) == text


@pytest.mark.parametrize("text", ["21.08", "24", "24.11.x", "", "twenty"])
def test_unknown_releases_are_refused(text: str) -> None:
    """A release that nobody looked at is an error, not a guess."""
    with pytest.raises(ValueError, match="not a Slurm release"):
        parse_release(text)
