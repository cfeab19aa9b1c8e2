-- The record is as the caller knows it, and so the caller has worked out what
-- becomes of it. ARGV: its facts then ("" if the caller does not know), when Redis is
-- to drop the record (0 for no other time than so far), how many arguments with
-- fields to set and how many with fields to delete follow; the last one is for
-- update.lua.

local known, setting, deleting = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if known ~= '' then
  local facts = redis.call('HGET', KEYS[1], 'facts')
  if not facts then
    return false
  end
  if facts == known then
    redis.call('HSET', KEYS[1], unpack(ARGV, 5, 4 + setting))
    if deleting > 0 then
      redis.call('HDEL', KEYS[1], unpack(ARGV, 5 + setting, 4 + setting + deleting))
    end
    if ARGV[2] ~= '0' then
      redis.call('PEXPIREAT', KEYS[1], ARGV[2])
    end
    return 1
  end
end

