-- Register this process as alive and return the number of live processes. The script writes, so
-- that a full or read-only server does not count as available.
-- KEYS: processes. ARGV: process ID ("": count without registering), TTL in ms, then a channel that
-- only this process reads ("": none) and a message: if it does not arrive, the subscription is dead.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return redis.call('ZCARD', KEYS[1])
