-- Ends the session of the record KEYS[1] at the time ARGV[1], whatever its Auth,
-- as Change.Apply does. Replies nil if there is no record, else its fields as they
-- were before; one that had ended stays as it is.

local key = KEYS[1]
local text = call('HGET', key, 'facts')
if not text then
  return false
end
local f = parse(text)
if not f then
  return foreign
end
local before = call('HGETALL', key)
if f.idle == '0' then
  -- Replicas confirm a write. This one changes nothing, and they have it only once
  -- they have the end too.
  keep(key, f.expires)
else
  -- Fields go first: a server that is out of memory lets a script that has begun
  -- to write go on.
  local delete = {'user', 'addr', 'agent'}
  for i = 1, #before, 2 do
    if sub(before[i], 1, 1) == '.' then
      delete[#delete + 1] = before[i]
    end
  end
  batches('HDEL', key, delete)
  local at = math.max(num(ARGV[1]), num(f.seen))
  -- It outlives every first-visit cookie, which lives a day.
  f.idle, f.expires, f.absolute, f.size = '0', int(math.max(at, num(f.created) + 864e8)), int(at), '0'
  f.version = add(f.version, '1')
  call('HSET', key, 'facts', line(f))
  keep(key, f.expires)
end
return before
