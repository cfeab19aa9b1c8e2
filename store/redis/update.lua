-- Change.Apply on the record KEYS[1], whatever it is like. The last of ARGV has the
-- words that say what to do, each behind its length and a colon: the time and the
-- Auth of the change, and steps of five in the order of Apply. Nothing is written
-- before all are done.
--
-- Replies nil if there is no record, else its fields as they were and, last, "1" if
-- it was changed or "0" if the change is refused.

local words, text, at = {}, ARGV[#ARGV], 1
while at <= #text do
  local colon = string.find(text, ':', at, true)
  local length = num(sub(text, at, colon - 1))
  words[#words + 1] = sub(text, colon + 1, colon + length)
  at = colon + length + 1
end

local key, now = KEYS[1], num(words[1])
local reply = call('HGETALL', key)
if #reply == 0 then
  return false
end
local record = {}
for i = 1, #reply, 2 do
  record[reply[i]] = reply[i + 1]
end
local f = parse(record.facts)
if not f then
  return foreign
end

local function refuse()
  reply[#reply + 1] = '0'
  return reply
end

if f.idle == '0' or now >= num(f.expires) or f.auth ~= words[2] then
  return refuse()
end

local changed = {} -- names of fields
local before = num(f.size)
local size = before

local function field(name, content)
  record[name], changed[name] = content, true
end

local function put(name, value)
  local old = record[name]
  if old then
    size = size - (#name - 1) - #old
  end
  if value then
    size = size + (#name - 1) + #value
  end
  field(name, value)
end

local function drop(which)
  for name in pairs(record) do
    if sub(name, 1, 1) == '.' and which(name) then
      put(name, nil)
    end
  end
end

local function under(name, prefix)
  return sub(name, 1, #prefix + 1) == prefix .. '.'
end

local signed, again = false, false
local i = 3
while i <= #words do
  local step, a, b, c, d = unpack(words, i, i + 4)
  i = i + 5

  if step == 'set' or step == 'add' or step == 'delete' then
    -- name, condition, what it must hold, new value or addend
    local holds = b == '' or (record[a] and '=' .. record[a] or '') == c
    if holds and step == 'set' then
      put(a, d)
    elseif holds and step == 'delete' then
      put(a, nil)
    elseif holds then
      local sum = add(counter(record[a]), d)
      if not sum then
        return refuse()
      end
      put(a, sum)
    elseif b == 'fail' then
      return refuse()
    end
  elseif step == 'clear' then -- prefix
    drop(function(name) return under(name, a) end)
  elseif step == 'most' then -- bytes
    if size > num(a) and size > before then
      return refuse()
    end
  elseif step == 'signin' then -- user, secret asked with, number of prefixes behind that stay
    again = (record.user or '') == a
    if record.user and not (again and b == record.secret) then
      return refuse()
    end
    local first = i
    i = i + num(c)
    if not again then
      field('user', a)
      drop(function(name)
        for n = first, i - 1 do
          if name == words[n] or under(name, words[n]) then
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
    if a == record.secret and num(b) < num(f.untilold) then
      f.untilold = b
    end
  elseif step == 'renew' then -- from, to, until
    if signed or a == record.secret and now >= num(f.untilold) then
      field('old', record.secret)
      field('secret', b)
      f.untilold = c
    end
  elseif step == 'addr' or step == 'agent' then
    field(step, a)
  else -- 'refuse': a sign-in without a new secret
    return refuse()
  end
end

local dropped = dropat(f.expires)
f.size, f.version = int(size), add(f.version, '1')
limit(f)
field('facts', line(f))
local set, delete = {}, {}
for name in pairs(changed) do
  if record[name] then
    set[#set + 1], set[#set + 2] = name, record[name]
  else
    delete[#delete + 1] = name
  end
end
batches('HSET', key, set)
batches('HDEL', key, delete)
if dropat(f.expires) ~= dropped then
  keep(key, f.expires)
end
reply[#reply + 1] = '1'
return reply
