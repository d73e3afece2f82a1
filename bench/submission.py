"""What the job_submit module adds to each submission, in a plain Lua interpreter.

Slurm embeds Lua 5.1 on Debian, so that is what runs the rendered module here, with job tables that
look fields up by a function as Slurm's do. Target: at most 50 microseconds a submission, on one
group of nodes and on 10,000 nodes in 200 groups that all offer something else.

- no gres: most jobs; only stamped;
- profile, portable: asked for before, so the answer is remembered;
- profile, portable, refused: new: beside other GRES than ever before;
- reading the file, which slurmctld does when it changes, and the first request for mig after it;
- portable, new size: of a size that nobody has asked for in these partitions since then.
"""

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.hooks import Row
from bench.timing import BenchError, Summary
from slurm_mig import clusterfile
from slurm_mig.description import Description
from slurm_mig.render import render

TARGET_US = 50.0
#: What is not met again until something changes.
COLD = ("reading", "first", "portable, new size")
RUNS = 21
CALLS = 500
PROGRAMS = ("lua5.1", "lua")

ONE = """
[slurm]
release = "24.11"
[nodes.gpu]
hosts = "gpu[01-16]"
gpus = "A100-SXM4-40GB:8"
layout = "balanced"
"""
#: Models whose profiles' names do not collide in Slurm's type ids.
MODELS = (
    *("A100-SXM4-40GB", "A100-SXM4-80GB", "A30-24GB", "H100-SXM5-80GB", "H100-PCIE-80GB"),
    *("A100-PCIE-40GB", "A100-PCIE-80GB"),
)
LAYOUTS = ("balanced", "halves", "small", "whole")

LUA = r"""
package.path = arg[1] .. "/?.lua;" .. package.path
slurm = {SUCCESS = 0, log_user = function(...) return string.format(...) end, log_error = print}
local nodes, runs, calls = arg[2], tonumber(arg[3]), tonumber(arg[4])
local number = 0
local kinds = {
  {"no gres", function() end},
  {"profile", function() return "gres/mig:3g.20gb:1" end},
  {"portable", function() return "gres/mig:20gb" end},
  {"profile, new", function(n) return "gres/x" .. n .. ":1,gres/mig:3g.20gb:1" end},
  {"portable, new", function(n) return "gres/x" .. n .. ":1,gres/mig:20gb" end},
  {"portable, new size", function(n) return "gres/mig:" .. n % 40 + 1 .. "gb" end, nil, 40},
  {"refused, new", function(n) return "gres/x" .. n .. ":1,gres/mig:3g.77gb" end, 2072},
}
local function table_of(fields)
  return setmetatable({}, {
    __index = function(_, name) return fields[name == "gres" and "tres_per_node" or name] end,
    __newindex = function(_, name, value) fields[name] = value end,
  })
end
local partitions = {gpu = table_of({nodes = nodes, flag_default = 1})}
for i = 1, runs do partitions["p" .. i] = table_of({nodes = "c[1-99]", flag_default = 0}) end
local function job(gres, partition)
  return table_of({tres_per_node = gres, partition = partition, requeue = 65534, argc = 0,
    script = "#!/bin/sh", extra = "a user's own text"})
end
local clock = os.clock
local start = clock()
local slurm_mig = require("slurm_mig")
print("reading", (clock() - start) * 1e6)
local one = job("gres/mig:3g.20gb:1", "gpu")
start = clock()
assert(slurm_mig.job_submit(one, partitions, 1000) == 0)
print("first", (clock() - start) * 1e6)
for _, kind in ipairs(kinds) do
  local calls = kind[4] or calls
  for run = 1, runs do
    local jobs = {}
    for i = 1, calls do
      number = number + 1
      jobs[i] = job(kind[2](number), kind[4] and "gpu,p" .. run or "gpu")
    end
    local code
    collectgarbage()
    start = clock()
    for i = 1, calls do code = slurm_mig.job_submit(jobs[i], partitions, 1000) end
    local spent = clock() - start
    assert(code == (kind[3] or 0) or kind[4], kind[1])
    print(kind[1], spent / calls * 1e6)
  end
end
"""


def large() -> str:
    """A cluster of 10,000 nodes in 200 groups, no two of which offer the same."""
    lines = ['[slurm]\nrelease = "24.11"']
    several = itertools.product(range(1, 9), LAYOUTS, MODELS)
    for index, (gpus, layout, model) in enumerate(itertools.islice(several, 200)):
        lines += [
            f'[nodes.g{index:03d}]\nhosts = "g{index:03d}n[01-50]"',
            f'gpus = "{model}:{gpus}"\nlayout = "{layout}"',
        ]
    return "\n".join(lines)


def measure(program: str, description: Description) -> dict[str, Summary]:
    """Microseconds of processor time a call, for each kind of call."""
    hosts = ",".join(group.hosts for group in description.groups)
    with tempfile.TemporaryDirectory() as folder:
        for file in render(description):
            if file.what == "lua":
                (Path(folder) / Path(file.name).name).write_text(file.text)
        script = Path(folder) / "measure.lua"
        script.write_text(LUA)
        done = subprocess.run(
            [program, script, folder, hosts, str(RUNS), str(CALLS)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BenchError(f"{program}: {done.stderr.strip()}")
    values: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        kind, _, value = line.rpartition("\t")
        values.setdefault(kind, []).append(float(value))
    return {kind: Summary.of(found) for kind, found in values.items()}


def rows() -> Iterator[Row]:
    """A row for each kind of call and cluster. Raises BenchError without an interpreter."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise BenchError("no Lua interpreter; as root: apt-get install lua5.1")
    for what, text in (("1 group", ONE), ("200 groups, 10,000 nodes", large())):
        for kind, summary in measure(program, clusterfile.loads(text)).items():
            name = f"job_submit, {what}: {kind}"
            yield Row(name, "us", summary, None if kind in COLD else TARGET_US)
