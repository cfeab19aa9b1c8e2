-- Deletes the record KEYS[1] and replies its user, nil if there is none.

local user = call('HGET', KEYS[1], 'user')
call('DEL', KEYS[1])
return user
