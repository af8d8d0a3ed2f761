-- Move a notice to the dead ones; the next one of its lane is due. The oldest dead ones are removed.
-- KEYS: as in claim_notices.lua, then a sorted set of the members of dead notices by time.
-- ARGV: member, the sealed notice, now, the largest number of dead notices.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[5], ARGV[3], ARGV[1])
local surplus = redis.call('ZCARD', KEYS[5]) - tonumber(ARGV[4])
if surplus > 0 then
  for _, one in ipairs(redis.call('ZRANGE', KEYS[5], 0, surplus - 1)) do
    redis.call('ZREM', KEYS[5], one)
    redis.call('HDEL', KEYS[1], one)
  end
end
local lane = string.match(ARGV[1], '^[^:]*')
local after = redis.call(
  'ZRANGE', KEYS[3], '[' .. lane .. ':', '(' .. lane .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
if after then
  redis.call('ZADD', KEYS[2], string.match(after, ':([^:]*):') or '0', after)
end
return 1
