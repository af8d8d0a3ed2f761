#!lua
-- Look up a value that all replicas share, or take the lease to fetch it: one round trip.
-- KEYS: value, lease, failure. ARGV: owner, lease in ms, version to skip ('' none, '*' any),
-- owner whose failure is awaited ('' none). Times are milliseconds of this server's clock.
-- A value is its version (16 bytes), when it was stored (13 digits), and what was published.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local value = redis.call('GET', KEYS[1])
if value and now < (tonumber(string.sub(value, 17, 29)) or math.huge) then
  value = false  -- the clock was set back: its end is as much later, and nobody knows its age
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
local left = redis.call('PTTL', KEYS[2])
if left > tonumber(ARGV[2]) then  -- set back, too: its holder may be dead
  left = tonumber(ARGV[2])
  redis.call('PEXPIRE', KEYS[2], left)
end
return {'busy', redis.call('GET', KEYS[2]), left, version}
