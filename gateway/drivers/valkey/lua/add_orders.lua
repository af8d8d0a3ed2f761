#!lua
-- Add orders and forget some that have ended; then tell who listens.
-- KEYS: the orders (a hash by id), their version. ARGV: a new version (random: a server that
-- forgot must not count to a number that somebody knows), life in ms, channel, message, how many
-- to forget, their ids, then id and order of each new one.
local forget = tonumber(ARGV[5])
for i = 6, 5 + forget do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
for i = 6 + forget, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('SET', KEYS[2], ARGV[1])
for i = 1, 2 do
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
