-- Deletes the record KEYS[1]. Replies when it was created, and its user, where there
-- was one that this program knows.

local text, user = call('HGET', KEYS[1], 'facts'), call('HGET', KEYS[1], 'user')
local f = text and parse(text)
call('DEL', KEYS[1])
return f and {f.created, user or ''}
