-- Store what one host has of a recording.
-- KEYS: all recordings (a sorted set of IDs by their start), this one (a hash by host).
-- ARGV: ID, start, host, entry, TTL in ms, largest number of recordings.
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local excess = redis.call('ZCARD', KEYS[1]) - ARGV[6]
if excess > 0 then
  for _, oldest in ipairs(redis.call('ZRANGE', KEYS[1], 0, excess - 1)) do
    redis.call('ZREM', KEYS[1], oldest)
  end
end
return 1
