-- Remove a notice, or store it for a later attempt.
-- KEYS: as in claim_notices.lua. ARGV: ID, the sealed notice ('' removes it), when it is due.
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
end
return 1
