-- Deletes the record KEYS[1]. Replies when it was created, and its user, where there
-- was one that this program knows.

local text, user = call('HGET', KEYS[1], 'facts'), call('HGET', KEYS[1], 'user')
local f = text and parse(text)
if not text then
  -- Replicas confirm a write, and they have this one only once they have a deletion
  -- that came before. No one ever sees it: the script is applied whole.
  call('HSET', KEYS[1], 'facts', '')
end
call('DEL', KEYS[1])
return f and {f.created, user or ''}
