-- Remove access requests. Their removal changes no decision, so no replica is notified.
-- KEYS: as in list_requests.lua. ARGV: the IDs, a few hundred at most.
redis.call('HDEL', KEYS[1], unpack(ARGV))
redis.call('HDEL', KEYS[2], unpack(ARGV))
return 1
