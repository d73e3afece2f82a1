-- Words ---------------------------------------------------------------------------------------

-- A user's text in a sentence: one line, short, nothing that a terminal would obey.
local function show(text)
  local shown = gsub(sub(text, 1, 64), "[^ -~]", function(c)
    return format("\\x%02x", byte(c))
  end)
  return #text > 64 and shown .. "..." or shown
end

-- Strings by their bytes, as Python sorts them; `<` would follow the locale.
local function before(a, b)
  for i = 1, #a < #b and #a or #b do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function counted(name, count)
  return count > 1 and name .. " x" .. count or name
end

-- What is remembered: {at = {key: value}}, emptied at KEPT entries, since users make the keys.
local function memory()
  return {at = {}, size = 0}
end

local function keep(memo, key, value)
  if memo.size >= KEPT then memo.at, memo.size = {}, 0 end
  memo.at[key], memo.size = value, memo.size + 1
end

-- Profiles ------------------------------------------------------------------------------------

local ATTRIBUTES = {
  [""] = true, ["+me"] = true, ["+gfx"] = true, ["-me"] = true, ["+me.all"] = true,
}

-- {slices, gb, attribute} of a profile's name; nil if it is none.
local function profile(name)
  local slices, gb, attribute = match(name, "^([1-9])g%.([1-9]%d*)gb(.*)$")
  if not slices or #gb > 4 or not ATTRIBUTES[attribute] then return nil end
  return {name = name, slices = tonumber(slices), gb = tonumber(gb), attribute = attribute}
end

-- The plain profiles of each model (no +me and the like), by size: memory, then compute slices.
local PLAIN = {}
for model, names in pairs(DATA.models) do
  local plain = {}
  for _, name in ipairs(names) do
    local parts = profile(name)
    if parts and parts.attribute == "" then plain[#plain + 1] = parts end
  end
  PLAIN[model] = plain
end

