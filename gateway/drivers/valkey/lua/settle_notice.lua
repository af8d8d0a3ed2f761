-- Remove a notice, or store it for a later attempt. After a removal the next one of its lane is due.
-- KEYS: as in claim_notices.lua. ARGV: member, the sealed notice ('' removes it), when it is due.
-- Returns 0 if another process has removed it.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  return 0
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
  return 1
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
local lane = string.match(ARGV[1], '^[^:]*')
local after = redis.call(
  'ZRANGE', KEYS[3], '[' .. lane .. ':', '(' .. lane .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
if after then
  redis.call('ZADD', KEYS[2], string.match(after, ':([^:]*):') or '0', after)
end
return 1
