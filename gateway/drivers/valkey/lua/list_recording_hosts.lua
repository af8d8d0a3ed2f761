-- Return the hosts with recordings that have reported lately.
-- KEYS: hosts by the time at which they reported, in ms (a sorted set). ARGV: age in ms.
local time = redis.call('TIME')
local since = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1]
return redis.call('ZRANGEBYSCORE', KEYS[1], since, '+inf')
