#!lua
-- Add orders and forget some that have ended; tell who listens if there is anything to hear.
-- KEYS: a hash of the orders by id, of 'version', and of 'complete' once somebody who knows all has
-- told all. One key without an end: no eviction of volatile keys takes it, nothing takes a part.
-- ARGV: a new version (random: a server that forgot must not count to a number that somebody
-- knows), 1 if the caller has told all by now, channel, message, how many to forget, their ids,
-- then id and order of each new one.
local key, forget, is_news = KEYS[1], tonumber(ARGV[5]), false
for i = 6, 5 + forget do
  redis.call('HDEL', key, ARGV[i])
end
for i = 6 + forget, #ARGV, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  is_news = true
end
if ARGV[2] == '1' and redis.call('HSETNX', key, 'complete', '1') == 1 then
  is_news = true
end
if is_news then
  redis.call('HSET', key, 'version', ARGV[1])
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return 1
