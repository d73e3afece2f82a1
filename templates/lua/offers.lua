-- Sentences about offers ----------------------------------------------------------------------

-- What the models of a scope offer: at most three models, first those with the profile `first`.
local function say_offers(scope, first)
  local models, by_name = {}, {}
  for _, kind in ipairs(scope.kinds) do
    for _, key in ipairs(kind.models) do
      local model = by_name[key]
      if not model then
        model = {key = key, nodes = 0, names = {}}
        by_name[key], models[#models + 1] = model, model
      end
      model.nodes = model.nodes + scope.nodes[kind]
      for name in pairs(kind.counts) do model.names[name] = true end
    end
  end
  sort(models, function(a, b)
    local x, y = first and a.names[first] or false, first and b.names[first] or false
    if x ~= y then return x end
    if a.nodes ~= b.nodes then return a.nodes > b.nodes end
    return before(a.key, b.key)
  end)
  local said = {}
  for i, model in ipairs(models) do
    if i > 3 then break end
    local names = {}
    for _, name in ipairs(DATA.models[model.key]) do
      if model.names[name] then names[#names + 1] = name end
    end
    said[i] = model.key .. " nodes offer " .. concat(names, ", ")
  end
  if #models > 3 then
    local more = #models - 3
    said[4] = "and " .. more .. " more model" .. (more > 1 and "s" or "")
  end
  return concat(said, "; ")
end

local function offers(scope, first)
  local key = first or ""
  local said = scope.said.at[key]
  if not said then
    said = say_offers(scope, first)
    keep(scope.said, key, said)
  end
  return said
end

-- How many characters to change to make one word of another, no more than `limit`.
local function distance(a, b, limit)
  if #a - #b > limit or #b - #a > limit then return limit + 1 end
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local corner = row[0]
    row[0] = i
    for j = 1, #b do
      local best = corner + (byte(a, i) == byte(b, j) and 0 or 1)
      if row[j] + 1 < best then best = row[j] + 1 end
      if row[j - 1] + 1 < best then best = row[j - 1] + 1 end
      corner, row[j] = row[j], best
    end
  end
  return row[#b]
end

-- The offered profile that a user who wrote `word` may have meant; nil if none is near. With as
-- many slices and the nearest memory, else with as much memory and the nearest slices; for what is
-- no profile's name, by spelling. Names are tried in their order, so that the answer is the same.
local function nearest(word, scope)
  local names = {}
  for name in pairs(scope.most) do names[#names + 1] = name end
  sort(names, before)
  local asked = profile(word)
  local best, least
  for _, name in ipairs(names) do
    local has, cost = profile(name), nil
    if asked and has and asked.attribute == has.attribute then
      if asked.slices == has.slices then
        cost = math.abs(asked.gb - has.gb)
      elseif asked.gb == has.gb then
        cost = 1e4 + math.abs(asked.slices - has.slices)
      end
    end
    if not asked then
      local changes = distance(word, name, 2)
      if changes <= 2 then cost = changes end
    end
    if cost and (not least or cost < least) then best, least = name, cost end
  end
  return best
end

