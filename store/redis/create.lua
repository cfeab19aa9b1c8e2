-- Creates the record KEYS[1] from the fields and values in ARGV behind the time
-- when it expires. Replies 0 if there is one.

if call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local set = {}
for i = 2, #ARGV do
  set[i - 1] = ARGV[i]
end
batches('HSET', KEYS[1], set)
keep(KEYS[1], ARGV[1])
return 1
