#!lua
-- Look up a value that all replicas share, or take the lease to fetch it: one round trip.
-- KEYS: value, lease, failure. ARGV: owner, lease in ms, version to skip ('' none, '*' any),
-- owner whose failure is awaited ('' none). Times are milliseconds of this server's clock.
local value = redis.call('GET', KEYS[1])
if value and ARGV[3] ~= '*' and string.sub(value, 1, 16) ~= ARGV[3] then
  return {'found', value, redis.call('PTTL', KEYS[1])}
end
if ARGV[4] ~= '' then
  local failure = redis.call('GET', KEYS[3])
  if failure and string.sub(failure, 1, #ARGV[4]) == ARGV[4] then
    return {'failed', string.sub(failure, #ARGV[4] + 1)}
  end
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local now = redis.call('TIME')
  return {'claimed', now[1] * 1000 + math.floor(now[2] / 1000)}
end
local version = value and string.sub(value, 1, 16) or ''
return {'busy', redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2]), version}
