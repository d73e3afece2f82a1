-- Requests ------------------------------------------------------------------------------------

-- One item of a GRES list, if it is ours: {said, prefix, name or gb or g, count, exact}; exact is
-- whether it names both profile and count. Or with a `fault`, which is a sentence behind `said`,
-- and `offers` if that should be followed by what there is.
-- Liberal in what it takes to be ours, since what it does not know Slurm may: any mix of prefixes,
-- blanks and capitals, and a count behind `=`, which Slurm takes since 23.11.
local function read(item)
  local text = lower((gsub(item, "%s+", "")))
  local prefix = match(text, "^gres[:/]") or PREFIX
  local said = match(item, "^%s*[gG][rR][eE][sS][:/](.*)$") or item
  local body
  while find(text, "^gres[:/]") do text = sub(text, 6) end
  if text == GRES then
    body = ""
  else
    body = match(text, "^" .. GRES .. "[:=](.*)$") or match(text, "^" .. GRES .. "(%(.*)$")
  end
  if not body then return nil end
  local one = {said = show(said), prefix = prefix, count = 1}
  local kind, mark, count = match(body, "^([^:=(]*)([:=]?)([^:=(]*)$")
  if not kind then
    one.fault = " is not understood; write mig:PROFILE or mig:PROFILE:COUNT"
  elseif not find(kind, "%D") then
    one.fault, one.offers = " names no profile; ask for one by name", true
  elseif kind == PADDING then
    one.fault, one.offers = " is no profile, it only fills the node's count up", true
  elseif find(kind, "^%dc%.") then
    one.fault = " asks for a part of a GPU instance; only whole ones are served: ask for mig:"
      .. show(sub(kind, 4))
  end
  if one.fault then return one end
  if mark ~= "" then
    local digits = match(count, "^0*(%d*)$")
    if not digits or digits == "" then
      one.fault = ": a count is a whole number, 1 or more"
      return one
    elseif #digits > DIGITS then
      one.fault, one.offers = " is more than any node has", true
      return one
    end
    one.count = tonumber(digits)
  end
  one.exact = mark ~= "" and profile(kind) ~= nil
  local gb, g = match(kind, "^0*([1-9]%d*)gb$"), match(kind, "^0*([1-9]%d*)g$")
  if (gb or g) and #(gb or g) <= 5 then
    one.gb, one.g = tonumber(gb), tonumber(g)
  else
    one.name = kind
  end
  return one
end

local function split(text)
  local items = {}
  for item in gmatch(text .. ",", "([^,]*),") do items[#items + 1] = item end
  return items
end

-- {profile: count} in the one way of writing it that the nodes read.
local function token_of(counts)
  local names, parts = {}, {}
  for name in pairs(counts) do names[#names + 1] = name end
  if #names == 0 then return NONE end
  sort(names, before)
  for i, name in ipairs(names) do parts[i] = name .. "=" .. counts[name] end
  return "slurm-mig/1:" .. concat(parts, ",") .. ";"
end

-- The token of a GRES list that Slurm has accepted; nil if the nodes would not understand it, which
-- only a job from before this plugin can have.
local function token_for(gres)
  if not gres or not find(lower(gres), GRES, 1, true) then return NONE end
  local counts = {}
  for _, item in ipairs(split(gres)) do
    local one = read(item)
    if one then
      if one.fault or not one.name or not profile(one.name) then return nil end
      counts[one.name] = (counts[one.name] or 0) + one.count
    end
  end
  return token_of(counts)
end

-- Whether a job may ask one node of this kind for {profile: count}. With elastic mode the counts
-- exclude each other: there must be slices enough, which is not all that it takes, but what remains
-- is a matter of places, and the planner's.
local function fits(kind, counts)
  local room, used_memory, used_compute = kind.room, 0, 0
  for name, count in pairs(counts) do
    if count > (kind.counts[name] or 0) then return false end
    if room then
      local needs = kind.needs[name]
      used_memory = used_memory + count * needs[1]
      used_compute = used_compute + count * needs[2]
    end
  end
  return not room or (used_memory <= room[1] and used_compute <= room[2])
end

