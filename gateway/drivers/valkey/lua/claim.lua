-- Return a shared value, or acquire the lease to fetch it, in one round trip.
-- KEYS: value, lease, failure, a mark that the holder's end is awaited.
-- ARGV: owner, lease in ms, version to skip ('' none, '*' any),
-- owner whose failure is awaited ('' none). Times are milliseconds of this server's clock.
-- A value is its version (16 bytes), the time when it was stored (13 digits), and the payload.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local value = redis.call('GET', KEYS[1])
if value and now < (tonumber(string.sub(value, 17, 29)) or math.huge) then
  value = false  -- the clock was set back: the age is unknown and the TTL is too long
end
local version = value and string.sub(value, 1, 16) or ''
if value and ARGV[3] ~= '*' and version ~= ARGV[3] then
  return {'found', version, string.sub(value, 30), redis.call('PTTL', KEYS[1])}
end
if ARGV[4] ~= '' then
  local failure = redis.call('GET', KEYS[3])
  if failure and string.sub(failure, 1, #ARGV[4]) == ARGV[4] then
    return {'failed', string.sub(failure, #ARGV[4] + 1)}
  end
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {'claimed', now}
end
local remaining = redis.call('PTTL', KEYS[2])
if remaining > tonumber(ARGV[2]) then  -- the clock was set back: the holder may be dead
  remaining = tonumber(ARGV[2])
  redis.call('PEXPIRE', KEYS[2], remaining)
end
redis.call('SET', KEYS[4], '1', 'PX', ARGV[2])
return {'busy', redis.call('GET', KEYS[2]), remaining, version}
