-- Nodes ---------------------------------------------------------------------------------------

-- Calls visit(name) for each node of a Slurm hostlist, such as `gpu[01-03,7],r[1-2]n[1-4]`.
local function each_host(list, visit)
  local function expand(head, tail)
    local start, stop, inside = find(tail, "%[([^%]]*)%]")
    if not start then return visit(head .. tail) end
    local left, right = head .. sub(tail, 1, start - 1), sub(tail, stop + 1)
    for range in gmatch(inside, "[^,]+") do
      local low, high = match(range, "^(%d+)%-(%d+)$")
      if low then
        local padded = "%0" .. #low .. "d"
        for number = tonumber(low), tonumber(high) do
          expand(left .. format(padded, number), right)
        end
      else
        expand(left .. range, right)
      end
    end
  end
  local depth, from = 0, 1
  for at, mark in gmatch(list .. ",", "()([%[%],])") do
    if mark == "[" then
      depth = depth + 1
    elseif mark == "]" then
      depth = depth - 1
    elseif depth == 0 then
      if at > from then expand("", sub(list, from, at - 1)) end
      from = at + 1
    end
  end
end

local kind_of -- {node: its kind}, made when first needed

-- {kind: how many of these nodes are of it}, by hostlist; there are as many as partitions.
local known_hosts = memory()
local function kinds_of(hosts)
  local found = known_hosts.at[hosts]
  if found then return found end
  if not kind_of then
    kind_of = {}
    for _, kind in ipairs(DATA.kinds) do
      each_host(kind.hosts, function(name) kind_of[name] = kind end)
    end
  end
  found = {}
  each_host(hosts, function(name)
    local kind = kind_of[name]
    if kind then found[kind] = (found[kind] or 0) + 1 end
  end)
  keep(known_hosts, hosts, found)
  return found
end

-- Where a job may run, and what is offered there: `kinds` as in DATA, `nodes` of each, `most` is
-- {profile: the most that one node has}; and what was found out: answers by request (`memo`), names
-- by portable item (`sizes`), sentences about offers (`said`).
local function new_scope(label, nodes)
  local scope = {
    label = label, kinds = {}, nodes = nodes, most = {},
    memo = memory(), sizes = memory(), said = memory(),
  }
  for _, kind in ipairs(DATA.kinds) do
    if nodes[kind] then
      scope.kinds[#scope.kinds + 1] = kind
      for name, count in pairs(kind.counts) do
        if count > (scope.most[name] or 0) then scope.most[name] = count end
      end
    end
  end
  return scope
end

local everywhere -- the scope of the whole cluster
local scopes = memory()

-- The scope of a job that names these partitions (nil: the default one). One that Slurm does not
-- show, because it is unknown or not for this user, is Slurm's to refuse: then the whole cluster.
local function scope_of(partitions, part_list)
  local names, hosts = {}, {}
  if partitions == nil or partitions == "" then
    for name, part in pairs(part_list) do
      if part.flag_default == 1 then
        names[1], hosts[1] = name, part.nodes or ""
        break
      end
    end
  else
    local seen = {}
    for name in gmatch(partitions, "[^,]+") do
      local part = part_list[name]
      if not part then names = {} break end
      if not seen[name] then
        seen[name], names[#names + 1], hosts[#hosts + 1] = true, name, part.nodes or ""
      end
    end
  end
  if #names == 0 then
    if not everywhere then
      local all = {}
      for _, kind in ipairs(DATA.kinds) do all[kind] = kinds_of(kind.hosts)[kind] end
      everywhere = new_scope("this cluster", all)
    end
    return everywhere
  end
  local key = concat(names, ",") .. "\n" .. concat(hosts, "\n")
  local scope = scopes.at[key]
  if not scope then
    local nodes = {}
    for _, list in ipairs(hosts) do
      for kind, count in pairs(kinds_of(list)) do nodes[kind] = (nodes[kind] or 0) + count end
    end
    local word = #names > 1 and "partitions " or "partition "
    scope = new_scope(word .. show(concat(names, ", ")), nodes)
    keep(scopes, key, scope)
  end
  return scope
end

