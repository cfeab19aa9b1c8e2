-- Replies with the facts of the record KEYS[1] if they are ARGV[1], so that the caller
-- has it already, and with all its fields if not.

local facts = redis.call('HGET', KEYS[1], 'facts')
if facts == ARGV[1] then
  return facts
end
return redis.call('HGETALL', KEYS[1])
