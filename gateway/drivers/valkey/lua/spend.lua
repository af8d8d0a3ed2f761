-- Add one replica's requests per caller to the totals of all replicas.
-- KEYS: one per caller. ARGV: interval in microseconds, then requests per caller.
-- Returns the distance of each caller's theoretical arrival time from now, in microseconds. It is
-- stored with the current time, so that the distance is kept after the clock was set back.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ahead = {}
for i, key in ipairs(KEYS) do
  local tat, stored_at = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  tat = tat and tonumber(tat) - math.max(0, tonumber(stored_at) - now) or now
  -- Below zero: requests of an earlier call that are taken back.
  tat = math.max(now, math.max(tat, now) + tonumber(ARGV[1]) * tonumber(ARGV[i + 1]))
  local ttl_ms = math.ceil((tat - now) / 1000) + 1
  redis.call('SET', key, string.format('%.0f %.0f', tat, now), 'PX', ttl_ms)
  ahead[i] = math.floor(tat - now)
end
return ahead
