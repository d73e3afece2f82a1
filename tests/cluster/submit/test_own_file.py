"""A site with a job_submit.lua of its own, and when slurmctld reads what again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from submitcluster import Site, lua_files

from slurm_mig.rehearsal.cluster import SlurmInstall

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("submit")]

WITHOUT = """
function slurm_job_submit(job_desc, part_list, submit_uid)
  job_desc.admin_comment = "site"
  return slurm.SUCCESS
end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  return slurm.SUCCESS
end
return slurm.SUCCESS
"""
WITH = """
package.path = "{etc}/?.lua;" .. package.path
local slurm_mig = require("slurm_mig")
assert(slurm_mig.job_submit and slurm_mig.job_modify) -- it is whole

function slurm_job_submit(job_desc, part_list, submit_uid)
  job_desc.admin_comment = "site"
  if job_desc.name == "unwanted" then
    slurm.log_user("not with us")
    return slurm.ERROR
  end
  return slurm_mig.job_submit(job_desc, part_list, submit_uid)
end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
  return slurm_mig.job_modify(job_desc, job_rec, part_list, modify_uid)
end
return slurm.SUCCESS
"""


@pytest.fixture
def own(slurm_install: SlurmInstall) -> Iterator[Site]:
    """A cluster whose site has a file of its own, without our module at first."""
    site = Site(slurm_install, {"job_submit.lua": WITHOUT})
    with site.cluster:
        yield site
        assert site.complaints() == []


def replace(path: Path, text: str, age: int) -> None:
    """Write a file whose time of change is `age` seconds ago: slurmctld compares whole seconds."""
    path.write_text(text)
    then = path.parent.stat().st_mtime + age
    os.utime(path, (then, then))


def test_installed_into_a_running_cluster(own: Site) -> None:
    """The two lines and two calls; jobs from before are left alone until they are changed."""
    old = own.held("--gres=mig:3g.20gb:1", own.option("slurm-mig/1:none;old"))
    for name, text in lua_files(own.release, own.field).items():
        if name == "slurm_mig.lua":
            (own.etc / name).write_text(text)
    replace(own.etc / "job_submit.lua", WITH.format(etc=own.etc), 10)
    job = own.held("--gres=mig:20gb", own.option("mine"))
    unwanted = own.refused("sbatch", "--job-name=unwanted", "--wrap=true")
    refused = own.refused("sbatch", "--gres=mig:3g.40gb", "--wrap=true")
    own.update(old, "JobName=other")
    untouched = own.job(old)
    own.set_field(old, "new")
    assert own.job(job) == ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;mine")
    assert own.cluster.job(job)["admin_comment"] == "site"
    assert unwanted[0] == "not with us"
    assert refused[0].startswith("mig:3g.40gb is not offered by any node of partition main; ")
    assert untouched == ("mig:3g.20gb:1", "slurm-mig/1:none;old")
    assert own.job(old) == ("mig:3g.20gb:1", "slurm-mig/1:3g.20gb=1;new")


def test_a_new_module_is_read_with_job_submit(own: Site) -> None:
    """A changed slurm_mig.lua alone is not noticed; `touch job_submit.lua` has it read."""
    module = own.etc / "slurm_mig.lua"
    own_file = own.etc / "job_submit.lua"
    text = lua_files(own.release, own.field)["slurm_mig.lua"]
    module.write_text(text)
    replace(own_file, WITH.format(etc=own.etc), 10)
    first = own.held("--gres=mig:3g.20gb")
    replace(module, text.replace("slurm-mig/1:none;", "slurm-mig/1:none;new;"), 20)
    alone = own.held()
    os.utime(own_file, (own_file.stat().st_mtime + 20,) * 2)
    both = own.held()
    assert [own.job(job)[1] for job in (first, alone, both)] == [
        "slurm-mig/1:3g.20gb=1;",
        "slurm-mig/1:none;",
        "slurm-mig/1:none;new;",
    ]


def test_a_broken_module(own: Site) -> None:
    """One that cannot be read leaves the old one in force: jobs are checked and stamped as before.

    So does one that was cut short and is still Lua: the line that looks for its functions.
    """
    text = lua_files(own.release, own.field)["slurm_mig.lua"]
    (own.etc / "slurm_mig.lua").write_text(text)
    replace(own.etc / "job_submit.lua", WITH.format(etc=own.etc), 10)
    own.held()
    seen = []
    for age, cut in ((20, "local x ="), (30, "local x = 1\n")):
        (own.etc / "slurm_mig.lua").write_text(cut)
        replace(own.etc / "job_submit.lua", WITH.format(etc=own.etc), age)
        seen.append(own.job(own.held("--gres=mig:20gb"))[1])
    (own.etc / "slurm_mig.lua").write_text(text)
    replace(own.etc / "job_submit.lua", WITH.format(etc=own.etc), 40)
    own.held()
    own.complaints(expected=True)
    assert seen == ["slurm-mig/1:3g.20gb=1;"] * 2
    assert own.cluster.log("slurmctld").count("using previous script") == 2


def test_files_only_root_can_read(own: Site) -> None:
    """The rendered files need be read by SlurmUser alone; a user's text is kept as it is."""
    for name, text in lua_files(own.release, own.field).items():
        (own.etc / name).write_text(text)
        (own.etc / name).chmod(0o600)
    replace(own.etc / "job_submit.lua", lua_files(own.release, own.field)["job_submit.lua"], 10)
    text = 'os.execute("true");%s%n$(id)`id`\\27[31m'
    job = own.held("--gres=mig:3g.20gb", own.option(text))
    assert own.job(job)[1] == f"slurm-mig/1:3g.20gb=1;{text}"
