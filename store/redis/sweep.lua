-- Deletes the record KEYS[1] if it expired at or before ARGV[1]. Replies when it
-- expires if it did not, and nil if it is gone, or is not the one that was created
-- at ARGV[2]. What another program wrote is left to Redis, and looked at again an
-- hour later.

local text = call('HGET', KEYS[1], 'facts')
if not text then
  return false
end
local f = parse(text)
if not f then
  return int(num(ARGV[1]) + 3600000000)
end
if f.created ~= ARGV[2] then
  return false
end
if num(f.expires) > num(ARGV[1]) then
  return f.expires
end
call('DEL', KEYS[1])
return false
