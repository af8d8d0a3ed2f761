-- Remove what one host had of a recording.
-- KEYS: all recordings (a sorted set), this one (a hash by host). ARGV: ID, host.
redis.call('HDEL', KEYS[2], ARGV[2])
if redis.call('HLEN', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
