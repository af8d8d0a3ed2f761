-- Undo mark_used.lua. KEYS: the key.
return redis.call('DEL', KEYS[1])
