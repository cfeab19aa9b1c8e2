-- Touch.Apply on the record KEYS[1]: it was seen at ARGV[1]. Skips what another
-- program wrote.

local text = call('HGET', KEYS[1], 'facts')
if not text then
  return 0
end
local f, seen = parse(text), num(ARGV[1])
if not f or f.idle == '0' or seen >= num(f.expires) or seen <= num(f.seen) then
  return 0
end
local dropped = dropat(f.expires)
f.seen, f.version = ARGV[1], add(f.version, '1')
limit(f)
call('HSET', KEYS[1], 'facts', line(f))
if dropat(f.expires) ~= dropped then
  keep(KEYS[1], f.expires)
end
return 1
