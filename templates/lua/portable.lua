-- Portable requests ---------------------------------------------------------------------------

-- `mig:20gb` is at least 20 GB of memory, `mig:3g` at least 3 compute slices, by the numbers in the
-- profile's name. The rule. Each kind of node of the partition says what it would give: for each
-- item it looks at each of its GPU models, and of the model's plain profiles, by size (memory, then
-- slices), takes the first that satisfies the item and that the node offers in the number asked.
-- That may be the smallest of the model's that satisfies it, or the next bigger one, but none still
-- bigger. Of two models, and of two kinds of nodes that can hold the whole job, the one is taken
-- that gives less: for `20gb` less memory, then fewer slices; for `3g` fewer slices, then less
-- memory; of several items the first ones decide. Memory and slices are a plain profile's name, so
-- there are no ties. All instances of a job come from one kind of node.

-- The profile that a kind of node gives for one item, and the two numbers to compare it by; without
-- one, nil, nil, nil and the one that it would be if it were not too big.
local function choose(kind, one)
  local best, less, then_less, too_big
  for _, model in ipairs(kind.models) do
    local steps = -1
    for _, has in ipairs(PLAIN[model]) do
      if has.gb >= (one.gb or 0) and has.slices >= (one.g or 0) then
        steps = steps + 1
        if (kind.counts[has.name] or 0) >= one.count then
          local x, y = has.gb, has.slices
          if one.g then x, y = y, x end
          if steps > 1 then
            if not too_big or has.gb < too_big.gb then too_big = has end
          elseif not best or x < less or (x == less and y < then_less) then
            best, less, then_less = has, x, y
          end
          break
        end
      end
    end
  end
  return best, less, then_less, too_big
end

-- The names for all portable items on one kind of node, beside the explicit {profile: count}, and
-- the numbers to compare them by; nil if it cannot hold the job.
local function names_on(kind, portable, explicit)
  if not fits(kind, explicit) then return nil end
  if #portable == 0 then return {}, {} end
  local counts, names, order = {}, {}, {}
  for name, count in pairs(explicit) do counts[name] = count end
  for i, one in ipairs(portable) do
    local has, less, then_less = choose(kind, one)
    if not has then return nil end
    names[i] = has.name
    order[2 * i - 1], order[2 * i] = less, then_less
    counts[has.name] = (counts[has.name] or 0) + one.count
  end
  if not fits(kind, counts) then return nil end
  return names, order
end

local function is_less(a, b)
  for i = 1, #a do
    if a[i] ~= b[i] then return a[i] < b[i] end
  end
  return false
end

-- The name of the profile for each portable item, by the rule above; nil if no kind of node of the
-- scope can hold the job.
local function translate(scope, portable, explicit)
  for name, count in pairs(explicit) do
    if count > (scope.most[name] or 0) then return nil end
  end
  local best, least
  for _, kind in ipairs(scope.kinds) do
    local names, order = names_on(kind, portable, explicit)
    if names and (not best or is_less(order, least)) then
      best, least = names, order
      if #portable == 0 then break end
    end
  end
  return best
end

-- The same for one item alone, remembered: 200 kinds of nodes take 0.2 ms to ask.
local function translate_one(scope, one)
  local key = (one.g or "") .. "/" .. (one.gb or "") .. "/" .. one.count
  local found = scope.sizes.at[key]
  if found == nil then
    found = translate(scope, {one}, {}) or false
    keep(scope.sizes, key, found)
  end
  return found or nil
end
