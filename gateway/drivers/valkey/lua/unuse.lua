#!lua
-- Take a use back: nothing came of it. KEYS: the name.
return redis.call('DEL', KEYS[1])
