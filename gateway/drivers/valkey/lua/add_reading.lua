-- Store a reading. KEYS: a hash. ARGV: field, value, TTL of all in ms, the largest number of them.
-- Above it, the others are forgotten: the next list of servers has what they say.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
