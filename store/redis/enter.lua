-- Notes in the index of a user, the sorted set KEYS[1], that the session ARGV[1]
-- lives until ARGV[2] at most. What lived until ARGV[3] at most goes, a hundred at
-- a time, and the whole index when the last of its sessions must have expired. It
-- writes whatever it finds, so that replicas can confirm it.

local key, id, most = KEYS[1], ARGV[1], ARGV[2]
local score = call('ZSCORE', key, id)
if not score or num(score) < num(most) then -- never sooner: another sign-in may have been given longer
  call('ZADD', key, most, id)
end
local dead = call('ZRANGEBYSCORE', key, '-inf', ARGV[3], 'LIMIT', 0, 100)
if #dead > 0 then
  call('ZREM', key, unpack(dead))
end
local latest = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
if latest[2] then
  keep(key, latest[2])
end
return 1
