-- Change.Apply on the record KEYS[1]. ARGV: the time, the Auth, what the facts
-- begin with if the record is as the caller knows it ("" if the caller knows
-- none), and what to do, in steps of five in the order of Apply. Nothing is
-- written before all steps are done.
--
-- Replies nil if there is no record; else 1 if it was changed and 0 if the change
-- is refused. If the record is not what the caller knew, that comes last in a list
-- of the fields as they were before.

local key, now = KEYS[1], num(ARGV[1])
local text = call('HGET', key, 'facts')
if not text then
  return false
end
local f = parse(text)
if not f then
  return foreign
end
local known = ARGV[3] ~= '' and sub(text, 1, #ARGV[3]) == ARGV[3]
local before = not known and call('HGETALL', key)

local function reply(changed)
  if known then
    return changed
  end
  before[#before + 1] = int(changed)
  return before
end

if f.idle == '0' or now >= num(f.expires) or f.auth ~= ARGV[2] then
  return reply(0)
end

-- What becomes of values and of other fields; false is deleted.
local values, fields = {}, {}
local size, before_size = num(f.size), num(f.size)

local function get(name)
  local value = values[name]
  if value == nil then
    value = call('HGET', key, name)
  end
  return value
end

local function put(name, value)
  local old = get(name)
  if old then
    size = size - (#name - 1) - #old
  end
  if value then
    size = size + (#name - 1) + #value
  end
  values[name] = value
end

local function drop(which)
  for _, name in ipairs(call('HKEYS', key)) do
    if sub(name, 1, 1) == '.' and which(name) then
      put(name, false)
    end
  end
  for name in pairs(values) do
    if which(name) then
      put(name, false)
    end
  end
end

local function under(name, prefix)
  return sub(name, 1, #prefix + 1) == prefix .. '.'
end

local secret = false
local function current()
  secret = secret or call('HGET', key, 'secret')
  return secret
end

local signed, again = false, false
local i, last = 4, #ARGV
while i <= last do
  local step, a, b, c, d = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  i = i + 5

  if step == 'set' or step == 'add' or step == 'delete' then
    -- name, condition, what it must hold, new value or addend
    local holds = true
    if b ~= '' then
      local old = get(a)
      holds = (old and '=' .. old or '') == c
      if not holds and b == 'fail' then
        return reply(0)
      end
    end
    if holds then
      if step == 'set' then
        put(a, d)
      elseif step == 'delete' then
        put(a, false)
      else
        local sum = add(counter(get(a)), d)
        if not sum then
          return reply(0)
        end
        put(a, sum)
      end
    end
  elseif step == 'clear' then -- prefix
    drop(function(name) return under(name, a) end)
  elseif step == 'most' then -- bytes
    if size > num(a) and size > before_size then
      return reply(0)
    end
  elseif step == 'signin' then -- user, secret asked with, number of prefixes behind that stay
    local user = call('HGET', key, 'user') or ''
    again = user == a
    if user ~= '' and not (again and b == current()) then
      return reply(0)
    end
    local stay = {unpack(ARGV, i, i + num(c) - 1)}
    i = i + num(c)
    if not again then
      fields.user = a
      drop(function(name)
        for _, prefix in ipairs(stay) do
          if name == prefix or under(name, prefix) then
            return false
          end
        end
        return true
      end)
    end
  elseif step == 'limits' then -- signed in at, remember, idle, absolute
    signed = true
    if num(c) > num(f.idle) or not again or f.remember == '0' then
      f.idle = c
    end
    if not (again and f.remember == '1') then
      f.remember = b
    end
    f.signedin, f.absolute = a, d
    f.auth = add(f.auth, '1')
  elseif step == 'seen' then
    if num(a) > num(f.seen) then
      f.seen = a
    end
  elseif step == 'idle' then
    if num(a) > num(f.idle) then
      f.idle = a
    end
  elseif step == 'came' then -- secret, until
    if a == current() and num(b) < num(f.untilold) then
      f.untilold = b
    end
  elseif step == 'renew' then -- from, to, until
    if signed or a == current() and now >= num(f.untilold) then
      fields.old, fields.secret, f.untilold = current(), b, c
      secret = b
    end
  elseif step == 'addr' or step == 'agent' then
    fields[step] = a
  else -- 'refuse': a sign-in without a new secret
    return reply(0)
  end
end

f.size, f.version = int(size), add(f.version, '1')
local expired = f.expires
limit(f)
fields.facts = line(f)
local set, delete = {}, {}
for name, value in pairs(fields) do
  set[#set + 1], set[#set + 2] = name, value
end
for name, value in pairs(values) do
  if value then
    set[#set + 1], set[#set + 2] = name, value
  else
    delete[#delete + 1] = name
  end
end
batches('HSET', key, set)
batches('HDEL', key, delete)
if f.expires ~= expired then
  keep(key, f.expires)
end
return reply(1)
