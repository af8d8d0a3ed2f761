-- Return the sealed overrides with the given IDs.
-- KEYS: as in add_overrides.lua. ARGV: the IDs, a few hundred at most.
return redis.call('HMGET', KEYS[1], unpack(ARGV))
