-- Return the sealed access requests with the given IDs.
-- KEYS: as in list_requests.lua. ARGV: the IDs, a few hundred at most.
return redis.call('HMGET', KEYS[1], unpack(ARGV))
