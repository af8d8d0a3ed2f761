-- Return the notices that are due, and let no other process have them until the lease ends.
-- KEYS: a hash of sealed notices by member (LANE:TIME:ID), a sorted set of members by the time at
-- which each is due, a sorted set of the same members, all with the score 0, in which those of one
-- lane are in order, and a sorted set of members that are scheduled for later.
-- ARGV: now, end of the lease, largest number of notices.
-- A notice waits for the earlier ones of its lane.
-- Returns the number of all notices that were due, then member and sealed notice of each claimed one.
local now, limit = tonumber(ARGV[1]), tonumber(ARGV[3])
local scheduled = redis.call('ZRANGE', KEYS[4], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 100)
for _, one in ipairs(scheduled) do
  redis.call('ZADD', KEYS[2], redis.call('ZSCORE', KEYS[4], one), one)
  redis.call('ZADD', KEYS[3], 0, one)
  redis.call('ZREM', KEYS[4], one)
end
local claimed = {redis.call('ZCARD', KEYS[2])}
local found = redis.call('ZRANGE', KEYS[2], 0, 199, 'WITHSCORES')
for i = 1, #found, 2 do
  local one = found[i]
  if tonumber(found[i + 1]) > now or #claimed > 2 * limit then
    break
  end
  local sealed = redis.call('HGET', KEYS[1], one)
  local lane = string.match(one, '^[^:]*')
  local first = redis.call(
    'ZRANGE', KEYS[3], '[' .. lane .. ':', '(' .. lane .. ';', 'BYLEX', 'LIMIT', 0, 1)[1]
  local first_due = first and first ~= one and redis.call('ZSCORE', KEYS[2], first)
  if not sealed then
    redis.call('ZREM', KEYS[2], one)
    redis.call('ZREM', KEYS[3], one)
  elseif first_due then
    redis.call('ZADD', KEYS[2], first_due, one)
  else
    redis.call('ZADD', KEYS[2], ARGV[2], one)
    claimed[#claimed + 1] = one
    claimed[#claimed + 1] = sealed
  end
end
return claimed
