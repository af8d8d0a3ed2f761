#!lua
-- Add what one replica's callers spent to what all replicas know of them.
-- KEYS: one per caller. ARGV: interval in microseconds, then requests per caller.
-- Returns how far each caller's theoretical arrival time lies ahead, in microseconds. It is kept
-- with the time of keeping: where this server's clock was set back since, it is as far from now.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ahead = {}
for i, key in ipairs(KEYS) do
  local tat, kept_at = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  tat = tat and tonumber(tat) - math.max(0, tonumber(kept_at) - now) or now
  tat = math.max(tat, now) + tonumber(ARGV[1]) * tonumber(ARGV[i + 1])
  local life_ms = math.ceil((tat - now) / 1000) + 1
  redis.call('SET', key, string.format('%.0f %.0f', tat, now), 'PX', life_ms)
  ahead[i] = math.floor(tat - now)
end
return ahead
