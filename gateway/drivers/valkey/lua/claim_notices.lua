-- Return the notices that are due, and let no other process have them until the lease ends.
-- KEYS: a hash of sealed notices by ID, a sorted set of their IDs by the time at which each is due.
-- ARGV: now, end of the lease, largest number of notices.
-- Returns the number of all notices, then ID and sealed notice of each claimed one.
local found = redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[3]) - 1, 'WITHSCORES')
local claimed = {redis.call('ZCARD', KEYS[2])}
for i = 1, #found, 2 do
  if tonumber(found[i + 1]) <= tonumber(ARGV[1]) then
    local sealed = redis.call('HGET', KEYS[1], found[i])
    if sealed then
      redis.call('ZADD', KEYS[2], ARGV[2], found[i])
      claimed[#claimed + 1] = found[i]
      claimed[#claimed + 1] = sealed
    else
      redis.call('ZREM', KEYS[2], found[i])
    end
  end
end
return claimed
