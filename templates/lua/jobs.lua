-- Jobs ----------------------------------------------------------------------------------------

local function is_asked(text)
  return text ~= nil and find(lower(text), GRES, 1, true) ~= nil
end

local function to_user(text) slurm.log_user("%s", text) end

-- slurmctld before 23.02 discards what is said to the user about a change, and complains about it.
local function to_log(text) slurm.log_info("slurm-mig: %s", text) end

local about_a_change = DATA.release >= 2302 and to_user or to_log

-- Ends a request with a sentence. Slurm adds its own, by the code: "Invalid generic resource (gres)
-- specification".
local function refuse(sentence, say)
  say(sentence)
  return slurm.ESLURM_INVALID_GRES or 2072
end

local ELSEWHERE = {"tres_per_job", "tres_per_socket", "tres_per_task"}

-- The sentence that refuses mig in a field that is not counted by node; nil if there is none.
local function elsewhere(job_desc)
  for _, field in ipairs(ELSEWHERE) do
    local text = job_desc[field]
    if is_asked(text) then
      for _, item in ipairs(split(text)) do
        local one = read(item)
        if one then
          return one.said .. ": " .. GRES .. " is counted by node, not by job, socket or task; "
            .. "ask for it with --gres=mig:PROFILE:COUNT"
        end
      end
    end
  end
  return nil
end

-- The user's own text, without tokens in front of it, behind `token` ("" for none).
local function stamped(token, text)
  text = text or ""
  local from = 1
  while true do
    local _, stop = find(text, TOKEN, from)
    if not stop then return token .. sub(text, from) end
    from = stop + 1
  end
end

-- What portable items became; not where Slurm will refuse the partition anyway.
local function tell(notes, scope, say)
  if scope == everywhere then return end
  for _, note in ipairs(notes) do say(note) end
end

local function submit(job_desc, part_list)
  local sentence = elsewhere(job_desc)
  if sentence then return refuse(sentence, to_user) end
  local gres, token = job_desc.gres, NONE
  if is_asked(gres) then
    local scope = scope_of(job_desc.partition, part_list)
    local found = answer(gres, scope)
    if found.fault then return refuse(found.fault, to_user) end
    if found.token then
      -- srun before 23.11 asks its own step for what the user typed: a portable request is not in
      -- the job then, and a profile without count is refused. (salloc has no argc there.)
      if found.inexact and DATA.release < 2311 and job_desc.script == nil
        and (job_desc.argc or 0) > 0 then
        return refuse(found.inexact, to_user)
      end
      if found.gres ~= gres then job_desc.tres_per_node = found.gres end
      tell(found.notes, scope, to_user)
      -- The Prolog sends a job that found no room back to the queue. A user's own --no-requeue
      -- stays: it keeps a job from running twice, which may be worse than not running.
      if job_desc.requeue == NO_VAL16 then job_desc.requeue = 1 end
      token = found.token
    end
  end
  local field = DATA.field
  if field ~= "" then job_desc[field] = stamped(token, job_desc[field]) end
  return slurm.SUCCESS
end

local function modify(job_desc, job_rec, part_list)
  local sentence = elsewhere(job_desc)
  if sentence then return refuse(sentence, about_a_change) end
  local gres, partition, token = job_desc.gres, job_desc.partition, nil
  if gres ~= nil then
    token = NONE
    if is_asked(gres) then
      local scope = scope_of(partition or job_rec.partition, part_list)
      local found = answer(gres, scope)
      if found.fault then return refuse(found.fault, about_a_change) end
      if found.token then
        if found.gres ~= gres then job_desc.tres_per_node = found.gres end
        tell(found.notes, scope, about_a_change)
        token = found.token
      end
    end
  elseif partition ~= nil and is_asked(job_rec.gres) and token_for(job_rec.gres) then
    local found = answer(job_rec.gres, scope_of(partition, part_list))
    if found.fault then return refuse(found.fault, about_a_change) end
  end
  local field = DATA.field
  if field == "" then return slurm.SUCCESS end
  local text = job_desc[field]
  if token then
    -- A new request: its token, before the text that the user gives or has.
    if text == nil then text = job_rec[field] end
    job_desc[field] = stamped(token, text)
  elseif text ~= nil then
    -- A new text: the token of what the job has asked for. One that the nodes would not understand
    -- gets none, and they ask Slurm.
    job_desc[field] = stamped(token_for(job_rec.gres) or "", text)
  end
  return slurm.SUCCESS
end

-- An error in here must not let a job through unchecked, nor stop the cluster: a job that asks for
-- MIG is refused, any other is stamped as one that does not and let through.
local function failed(job_desc, job_rec, fault)
  pcall(slurm.log_error, "slurm-mig: %s", tostring(fault))
  local done = pcall(function()
    local field = DATA.field
    for _, name in ipairs(ELSEWHERE) do assert(not is_asked(job_desc[name])) end
    assert(not is_asked(job_desc.gres) and not (job_rec and is_asked(job_rec.gres)))
    if field ~= "" and (job_rec == nil or job_desc[field] ~= nil) then
      job_desc[field] = NONE .. (job_desc[field] or "")
    end
  end)
  if done then return slurm.SUCCESS end
  pcall(job_rec and about_a_change or to_user,
    "the mig part of this request could not be checked, so it is refused; "
      .. "the reason is in slurmctld's log")
  return slurm.ESLURM_INVALID_GRES or 2072
end

local M = {}

-- Called with Slurm's own arguments of slurm_job_submit.
function M.job_submit(job_desc, part_list)
  local fine, code = pcall(submit, job_desc, part_list)
  if fine then return code end
  return failed(job_desc, nil, code)
end

-- Called with Slurm's own arguments of slurm_job_modify.
function M.job_modify(job_desc, job_rec, part_list)
  local fine, code = pcall(modify, job_desc, job_rec, part_list)
  if fine then return code end
  return failed(job_desc, job_rec, code)
end

return M
