-- Plays slurmctld for the job_submit module: reads one call a line (a Lua table), answers one line.
-- arg[1] is the folder of slurm_mig.lua.
package.path = arg[1] .. "/?.lua;" .. package.path

local said, logged = {}, {}
slurm = {
  SUCCESS = 0,
  log_user = function(...) said[#said + 1] = string.format(...) end,
  log_info = function(...) logged[#logged + 1] = string.format(...) end,
  log_error = function(...) logged[#logged + 1] = string.format(...) end,
}
local before = {}
for name in pairs(_G) do before[name] = true end
local slurm_mig = require("slurm_mig")

local function quoted(value)
  if type(value) == "string" then
    return '"' .. value:gsub(".", function(c) return string.format("%02x", c:byte()) end) .. '"'
  end
  return tostring(value):gsub("%.0$", "")
end

-- A job as Slurm shows it: gres is another name of tres_per_node, and what is assigned to it gets a
-- prefix. `broken`: a field that cannot be read.
local function record(fields, release, broken)
  return setmetatable({}, {
    __index = function(_, name)
      if name == broken then error("broken on purpose") end
      return fields[name == "gres" and "tres_per_node" or name]
    end,
    __newindex = function(_, name, value)
      if name == "gres" then
        name = "tres_per_node"
        local prefix = release >= 2311 and "gres/" or "gres:"
        value = value:gsub("[^,]+", function(item) return prefix .. item end)
      end
      -- Slurm takes an empty string for none.
      fields[name] = value ~= "" and value or nil
    end,
  })
end

local read = loadstring or load
for line in io.lines() do
  local call = assert(read("return " .. line))()
  said, logged = {}, {}
  local job = record(call.job, call.release, call.broken)
  local code
  if call.what == "submit" then
    code = slurm_mig.job_submit(job, call.partitions, 1000)
  elseif call.what == "modify" then
    local rec = record(call.rec, call.release, call.broken_record)
    code = slurm_mig.job_modify(job, rec, call.partitions, 1000)
  elseif call.what == "time" then
    local jobs = {}
    for i = 1, call.calls do
      local fields = {}
      for name, value in pairs(call.job) do fields[name] = value end
      jobs[i] = record(fields, call.release)
    end
    collectgarbage()
    local start = os.clock()
    for i = 1, call.calls do slurm_mig.job_submit(jobs[i], call.partitions, 1000) end
    code = (os.clock() - start) / call.calls * 1e6
  else
    local globals = {}
    for name in pairs(_G) do
      if not before[name] then globals[#globals + 1] = name end
    end
    said, code = globals, 0
  end
  local out = {'"code":' .. tostring(code)}
  for name, list in pairs({said = said, logged = logged}) do
    local parts = {}
    for i, one in ipairs(list) do parts[i] = quoted(one) end
    out[#out + 1] = '"' .. name .. '":[' .. table.concat(parts, ",") .. "]"
  end
  for name, value in pairs(call.job or {}) do
    out[#out + 1] = '"' .. name .. '":' .. quoted(value)
  end
  io.write("{", table.concat(out, ","), "}\n")
  io.flush()
end
