-- Answers -------------------------------------------------------------------------------------

local function nothing_in(scope)
  return "no node of " .. scope.label .. " offers MIG instances"
end

-- Why a profile by name, `total` of it in all, is not to be had; nil if it is.
local function why_not_name(scope, one, total)
  local most = scope.most[one.name]
  if not most then
    local near = nearest(one.name, scope)
    return one.said .. " is not offered by any node of " .. scope.label .. "; "
      .. offers(scope, near) .. (near and "; did you mean " .. near .. "?" or "")
  elseif total > most then
    return one.said .. ": no node of " .. scope.label .. " has more than " .. most .. " of "
      .. one.name
  end
  return nil
end

-- Why a portable item alone is not to be had; nil if it is.
local function why_not_portable(scope, one)
  if translate_one(scope, one) then return nil end
  local single = translate_one(scope, {gb = one.gb, g = one.g, count = 1})
  if single then
    return one.said .. ": no node of " .. scope.label .. " has more than "
      .. scope.most[single[1]] .. " of " .. single[1]
  end
  local bigger
  for _, kind in ipairs(scope.kinds) do
    local _, _, _, too_big = choose(kind, one)
    if too_big and (not bigger or too_big.gb < bigger.gb) then bigger = too_big end
  end
  if bigger then
    return one.said .. ": the smallest that " .. scope.label .. " offers is " .. bigger.name
      .. ", more than one step bigger than asked; if it is to be that, ask for mig:" .. bigger.name
  end
  return one.said .. ": no node of " .. scope.label .. " offers that much in one plain instance; "
    .. offers(scope)
end

-- Why no kind of node of the scope can give all that is asked; a sentence.
local function why_not(scope, ours, explicit)
  if #scope.kinds == 0 then return ours[1].said .. ": " .. nothing_in(scope) end
  local all = {}
  for i, one in ipairs(ours) do
    local sentence
    if one.name then
      sentence = why_not_name(scope, one, explicit[one.name])
    else
      sentence = why_not_portable(scope, one)
    end
    if sentence then return sentence end
    if i <= 4 then all[i] = one.said end
  end
  return concat(all, ",") .. (#ours > 4 and ",..." or "") .. ": no node of " .. scope.label
    .. " has all of these at once; " .. offers(scope)
end

-- What becomes of a GRES list: {gres, token, notes, inexact} or {fault}; {} if none of it is ours.
local function answer_to(text, scope)
  local items, ours, portable, explicit = split(text), {}, {}, {}
  for i, item in ipairs(items) do
    local one = read(item)
    if one and one.fault then
      local sentence = one.said .. one.fault
      if one.offers then
        local said = offers(scope)
        sentence = sentence .. "; " .. (said ~= "" and said or nothing_in(scope))
      end
      return {fault = sentence}
    elseif one then
      items[i], ours[#ours + 1] = one, one
      if one.name then
        explicit[one.name] = (explicit[one.name] or 0) + one.count
      else
        portable[#portable + 1] = one
      end
    end
  end
  if #ours == 0 then return {} end
  if #ours > ITEMS then return {fault = ours[1].said .. ",...: too many requests for one job"} end
  local names
  if #ours == 1 and #portable == 1 then
    names = translate_one(scope, portable[1])
  else
    names = translate(scope, portable, explicit)
  end
  if not names then return {fault = why_not(scope, ours, explicit)} end
  local notes, noted = {}, {}
  for i, one in ipairs(portable) do
    one.name = names[i]
    explicit[one.name] = (explicit[one.name] or 0) + one.count
    local note = one.said .. ": you get " .. counted(one.name, one.count)
    if not noted[note] then noted[note], notes[#notes + 1] = true, note end
  end
  -- A profile that is asked for twice is asked for once, where it stood first.
  local out, written, inexact = {}, {}, nil
  for _, item in ipairs(items) do
    if type(item) == "string" then
      out[#out + 1] = item
    else
      if not item.exact and not inexact then
        inexact = item.said .. ": srun of this Slurm release needs profile and count; ask for mig:"
          .. item.name .. ":" .. item.count
      end
      if not written[item.name] then
        written[item.name] = true
        out[#out + 1] = item.prefix .. GRES .. ":" .. item.name .. ":" .. explicit[item.name]
      end
    end
  end
  return {gres = concat(out, ","), token = token_of(explicit), notes = notes, inexact = inexact}
end

local function answer(text, scope)
  local found = scope.memo.at[text]
  if not found then
    found = answer_to(text, scope)
    if #text <= LENGTH then keep(scope.memo, text, found) end
  end
  return found
end
