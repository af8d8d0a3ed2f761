-- Store a notice for a later attempt, remove it, or move it to the dead ones. After the last two the
-- next one of its lane is due. Beyond the largest number of dead notices, the oldest are removed.
-- KEYS: as in claim_notices.lua, then a sorted set of the members of dead notices by time.
-- ARGV: member, the sealed notice ('' removes it), when it is due ('': never, it is dead), now, the
-- largest number of dead notices.
-- Returns 0 if another process has removed it.
local notices, due, lanes, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[5]
local member, sealed, due_at = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HEXISTS', notices, member) == 0 then
  redis.call('ZREM', due, member)
  redis.call('ZREM', lanes, member)
  return 0
end
if due_at ~= '' then
  redis.call('HSET', notices, member, sealed)
  redis.call('ZADD', due, due_at, member)
  return 1
end
redis.call('ZREM', due, member)
redis.call('ZREM', lanes, member)
if sealed == '' then
  redis.call('HDEL', notices, member)
else
  redis.call('HSET', notices, member, sealed)
  redis.call('ZADD', dead, ARGV[4], member)
  local surplus = redis.call('ZCARD', dead) - tonumber(ARGV[5])
  if surplus > 0 then
    for _, one in ipairs(redis.call('ZRANGE', dead, 0, surplus - 1)) do
      redis.call('ZREM', dead, one)
      redis.call('HDEL', notices, one)
    end
  end
end
local lane = string.match(member, '^[^:]*')
local after = redis.call(
  'ZRANGE', lanes, '[' .. lane .. ':', '(' .. lane .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
if after then
  redis.call('ZADD', due, string.match(after, ':([^:]*):') or '0', after)
end
return 1
